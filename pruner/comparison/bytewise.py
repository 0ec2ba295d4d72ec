"""Tensors of two sides compared byte by byte and value by value, in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pruner.comparison.float8 import FLOAT8, float8_values
from pruner.files import BLOCK
from pruner.plan import ByteRange, packed
from pruner.progress import Advance, Progress
from pruner.safetensors_format import DTYPE_BITS
from pruner.sources import Source, read_ranges

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH = 64 << 20
"""Bytes of small tensors that one task compares, so that neighbours come with one request from the Hub."""

SLICE = 1 << 16
"""Values that are subtracted at a time: few enough for a processor's cache."""

_NUMPY: Mapping[str, str] = {
    "U8": "<u1", "I8": "<i1", "I16": "<i2", "U16": "<u2", "F16": "<f2", "BF16": "<u2", "I32": "<i4", "U32": "<u4",
    "F32": "<f4", "F64": "<f8", "I64": "<i8", "U64": "<u8", **dict.fromkeys(FLOAT8, "<u1"),
}  # fmt: skip
"""Dtypes whose values can be subtracted; of all others (packed ones) only bytes are compared."""


@dataclass(frozen=True)
class Pair:
    """The same tensor on two sides: dtypes, and where the bytes lie.  `rows` is the length of axis 0 when rows are experts."""

    name: str
    dtypes: tuple[str, str]
    left: tuple[ByteRange, ...]
    right: tuple[ByteRange, ...]
    rows: int | None = None

    @property
    def size(self) -> int:
        """Bytes of the left side."""
        return sum(part.length for part in self.left)

    @property
    def comparable(self) -> bool:
        """Whether equal bytes or equal values can be told: the same dtype, or two dtypes with known values."""
        return self.dtypes[0] == self.dtypes[1] or all(dtype in _NUMPY for dtype in self.dtypes)


@dataclass(frozen=True)
class Found:
    """How a pair differs.

    `differing` counts bytes, `elements` values (None where the dtype has no known values), `first` is the offset of the
    first byte of the first difference in the left tensor's data, `rows` maps a row to its differing bytes (or values, of two
    dtypes).  `largest` is the largest absolute difference of finite values, `not_finite` counts pairs without one.
    """

    differing: int = 0
    elements: int | None = None
    first: int | None = None
    rows: Mapping[int, int] = field(default_factory=dict)
    largest: float | None = None
    not_finite: int = 0


def compare_pairs(
    pairs: Sequence[Pair], left: Source, right: Source, executor: Executor, progress: Progress, *, shared: bool
) -> list[Found]:
    """Compare all pairs, many at a time; the result is in the order of `pairs`, whoever works.

    `shared` says that the workers share this process and may report progress as they go.

    Raises:
        InputError: a file ends before its header says.
        UnavailableError: a remote side cannot be reached.
    """
    with progress.task("comparing tensors", sum(pair.size for pair in pairs), "bytes") as advance:
        batches = list(packed(pairs, BATCH))
        pending = [executor.submit(compare_batch, batch, left, right, advance if shared else None) for batch in batches]
        found = []
        for batch, future in zip(batches, pending, strict=True):
            found += future.result()
            if not shared:
                advance(sum(pair.size for pair in batch))
    return found


def compare_batch(
    pairs: Sequence[Pair], left: Source, right: Source, advance: Callable[[int], None] | None = None
) -> list[Found]:
    """Compare pairs one after the other, reading each side as one stream."""
    streams = (
        Stream(read_ranges(left, [part for pair in pairs for part in pair.left])),
        Stream(read_ranges(right, [part for pair in pairs for part in pair.right])),
    )
    return [_compare(pair, streams, advance) for pair in pairs]


class Stream:
    """Blocks of any length, handed out in the lengths that are asked for."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = b""

    def take(self, length: int) -> bytes:
        """The next `length` bytes, which must be there."""
        while len(self._rest) < length:
            self._rest = self._rest + next(self._blocks) if self._rest else next(self._blocks)
        taken, self._rest = self._rest[:length], self._rest[length:]
        return taken


def _compare(pair: Pair, streams: tuple[Stream, Stream], advance: Advance | None) -> Found:
    tally = _Tally(pair)
    widths = [DTYPE_BITS[dtype] for dtype in pair.dtypes]
    step = BLOCK * widths[0] // max(widths)  # bytes of the left side; of two dtypes, both have whole bytes
    for start in range(0, pair.size, step):
        length = min(step, pair.size - start)
        tally.add(streams[0].take(length), streams[1].take(length * widths[1] // widths[0]))
        if advance:
            advance(length)
    return tally.found()


class _Tally:
    """Differences of one pair, added up block by block."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._same_dtype = pair.dtypes[0] == pair.dtypes[1]
        self._numeric = all(dtype in _NUMPY for dtype in pair.dtypes)
        self._position = 0
        self._differing = self._elements = self._not_finite = 0
        self._first: int | None = None
        self._largest: float | None = None
        self._rows: Counter[int] = Counter()

    def add(self, left: bytes, right: bytes) -> None:
        if not self._same_dtype:
            self._values(left, right)
        elif left != right:
            self._bytes(left, right)
            if self._numeric:
                self._values(left, right)
        self._position += len(left)

    def found(self) -> Found:
        elements = self._elements if self._numeric else None
        rows = dict(sorted(self._rows.items()))
        return Found(self._differing, elements, self._first, rows, self._largest, self._not_finite)

    def _bytes(self, left: bytes, right: bytes) -> None:
        unequal = np.frombuffer(left, np.uint8) != np.frombuffer(right, np.uint8)
        self._differing += int(np.count_nonzero(unequal))
        self._locate(unequal, 1)

    def _values(self, left: bytes, right: bytes) -> None:
        """Differences of values; also where they are when bytes cannot be laid side by side."""
        raw = [np.frombuffer(block, _NUMPY[dtype]) for block, dtype in zip((left, right), self._pair.dtypes, strict=True)]
        for start in range(0, len(raw[0]), SLICE):
            one, two = (array[start : start + SLICE] for array in raw)
            values = [_decoded(array, dtype) for array, dtype in zip((one, two), self._pair.dtypes, strict=True)]
            unequal = _unequal_bits(one, two) if self._same_dtype else _unequal_values(*values)
            if count := int(np.count_nonzero(unequal)):
                self._elements += count
                self._gaps(_gaps(values[0][unequal], values[1][unequal]))
                if not self._same_dtype:
                    self._locate(unequal, one.itemsize, start * one.itemsize)

    def _gaps(self, gaps: NDArray[Any]) -> None:
        finite = gaps[np.isfinite(gaps)] if gaps.dtype.kind == "f" else gaps
        self._not_finite += len(gaps) - len(finite)
        if len(finite):
            largest = finite.max().item()
            self._largest = largest if self._largest is None else max(self._largest, largest)

    def _locate(self, unequal: NDArray[Any], unit: int, offset: int = 0) -> None:
        """Count differences per row and note the first; a flag stands for `unit` bytes, the first one for those at `offset`."""
        start = self._position + offset
        if self._first is None:
            self._first = start + int(unequal.argmax()) * unit
        if self._pair.rows:
            size = self._pair.size // self._pair.rows
            first, last = start // size, (start + (len(unequal) - 1) * unit) // size
            begins = [max(0, (row * size - start) // unit) for row in range(first, last + 1)]
            counts = np.add.reduceat(unequal.view(np.uint8), begins, dtype=np.int64).tolist()
            self._rows.update({row: count for row, count in zip(range(first, last + 1), counts, strict=True) if count})


def _unequal_bits(left: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """By bits: a NaN equals itself, and minus zero is not zero."""
    unsigned = f"<u{left.itemsize}"
    result: NDArray[Any] = left.view(unsigned) != right.view(unsigned)
    return result


def _unequal_values(left: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """By value, for two dtypes: NaN equals NaN."""
    result: NDArray[Any] = (left != right) & ~((left != left) & (right != right))  # noqa: PLR0124  # only NaN differs from itself
    return result


def decode(data: bytes, dtype: str) -> NDArray[Any] | None:
    """Values of a tensor's bytes, or None for a dtype whose values are not known."""
    return _decoded(np.frombuffer(data, _NUMPY[dtype]), dtype) if dtype in _NUMPY else None


def _decoded(raw: NDArray[Any], dtype: str) -> NDArray[Any]:
    """BF16 is the upper half of F32, 8-bit floats are looked up; all others are what numpy read."""
    if dtype in FLOAT8:
        values: NDArray[Any] = float8_values(dtype)[raw]
        return values
    if dtype != "BF16":
        return raw
    wide = raw.astype("<u4")
    wide <<= 16
    result: NDArray[Any] = wide.view("<f4")
    return result


def _gaps(left: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """Absolute differences: whole numbers exactly (modulo 2^64, where the larger minus the smaller always fits)."""
    result: NDArray[Any]
    if left.dtype == right.dtype and left.dtype.kind in "iu":
        wide = "<i8" if left.dtype.kind == "i" else "<u8"
        high, low = (array.astype(wide).view("<u8") for array in (np.maximum(left, right), np.minimum(left, right)))
        result = high - low
    else:
        with np.errstate(all="ignore"):
            result = np.abs(left.astype("<f8") - right.astype("<f8"))
    return result
