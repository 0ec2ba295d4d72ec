"""The safetensors container: reading headers with suspicion, and writing them exactly as the library does.

Format: https://github.com/huggingface/safetensors#format — eight bytes little-endian header length, a JSON header, tensor data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pruner.errors import InputError
from pruner.files import require_whole_text
from pruner.places import require_possible, unreadable
from pruner.wording import counted

MOST_DIMENSIONS = 8
HEADER_LIMIT = 100_000_000
"""Largest header in bytes, the limit of the safetensors library itself."""

DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits of one element, in the order of the library's own enumeration, which decides the order of tensors in a file."""

_RANK = {dtype: rank for rank, dtype in enumerate(DTYPE_BITS)}

Metadata = Literal["none", "pt"]


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as a header describes it; `start` and `end` are byte offsets from the beginning of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes of data."""
        return self.end - self.start

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """A checked header: tensors in the order of their data, and the file's `__metadata__`."""

    tensors: tuple[TensorInfo, ...]
    metadata: Mapping[str, str]
    data_start: int


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file.

    Raises:
        InputError: the file is missing, shorter or longer than its header says, or its header is larger than 100 MB, not
            JSON, or describes tensors that overlap, leave holes or have the wrong number of bytes.
    """
    require_possible(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return parse_header(file, size, str(path))
    except OSError as error:
        raise InputError(f"{path}: {unreadable(path, error)}") from None


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"
"""How a file begins that a clone without git-lfs has in place of a large one; no header is as long as that would say."""


def parse_header(file: BinaryIO, size: int, where: str) -> Header:
    """Check the header at the beginning of `file`; `size` is that of the whole file and `where` names it in errors.

    Raises:
        InputError: see `read_header`.
    """
    begin = file.read(8)
    if begin == LFS_POINTER[:8]:
        raise InputError(f"{where}: is a pointer of Git LFS and not the file; fetch it with `git lfs pull`")
    length = int.from_bytes(begin, "little")
    if size < 8 or length > HEADER_LIMIT or 8 + length > size:  # noqa: PLR2004  # the length field has 8 bytes
        found = f"a header of {length:,} bytes in a file of {size:,}" if size >= 8 else f"it has {counted(size, 'byte')}"  # noqa: PLR2004
        raise InputError(f"{where}: no safetensors file: {found}; is it the right one, and whole?")
    try:
        text = file.read(length).decode()  # json.loads would also take UTF-16, which the library refuses
        content = json.loads(text)
        if "\\u" in text:
            require_whole_text(content)
    except (ValueError, RecursionError):
        raise InputError(f"{where}: the safetensors header is not JSON; fetch the file again") from None
    if not isinstance(content, dict):
        raise InputError(f"{where}: the safetensors header is no mapping")
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InputError(f"{where}: __metadata__ must map words to words")
    tensors = tuple(
        sorted((_tensor(where, name, entry, 8 + length) for name, entry in content.items()), key=lambda t: (t.start, t.end))
    )
    _require_contiguous(where, tensors, 8 + length, size)
    return Header(tensors, metadata, 8 + length)


def _tensor(where: str, name: str, entry: Any, data_start: int) -> TensorInfo:
    """One entry of a header, with its dtype, shape and offsets checked against each other."""
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape[: MOST_DIMENSIONS + 1], start, end]
        well_formed = len(shape) <= MOST_DIMENSIONS and all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)
        well_formed = well_formed and dtype in DTYPE_BITS
    except (KeyError, TypeError, ValueError):
        well_formed = False
    if not well_formed:
        raise InputError(f"{where}: tensor {name!r} has an unusable entry in the header")
    if (end - start) * 8 != math.prod(shape) * DTYPE_BITS[dtype]:
        raise InputError(f"{where}: tensor {name!r} of {dtype} {shape} cannot have {end - start:,} bytes")
    return TensorInfo(name, dtype, tuple(shape), data_start + start, data_start + end)


def _require_contiguous(where: str, tensors: Iterable[TensorInfo], position: int, size: int) -> None:
    for tensor in tensors:
        if tensor.start != position:
            raise InputError(f"{where}: tensor {tensor.name!r} overlaps another or leaves a hole at byte {position:,}")
        position = tensor.end
    if position != size:
        what = "truncated" if size < position else "longer than its header says"
        raise InputError(f"{where}: the file is {what}: {size:,} bytes instead of {position:,}; fetch it again")


def data_order(tensors: Iterable[tuple[str, str]]) -> list[str]:
    """Names in the order in which `safetensors.torch.save_file` lays out data.

    `tensors` are (name, dtype).  Source: `prepare` in safetensors/src/tensor.rs: larger dtypes first, then by name.
    """
    return [name for name, dtype in sorted(tensors, key=lambda tensor: (-_RANK[tensor[1]], tensor[0].encode()))]


def build_header(tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Metadata | Mapping[str, str]) -> bytes:
    """Header bytes, length field included, exactly as the safetensors library writes them.

    `tensors` are (name, dtype, shape) in data order; `metadata` is a mapping too, for files of our own.  More than one metadata
    key would come out in random order there (safetensors issue 584), so only none and `{"format": "pt"}` can be promised.
    """
    named = {"none": {}, "pt": {"format": "pt"}}[metadata] if isinstance(metadata, str) else dict(metadata)
    content: dict[str, Any] = {"__metadata__": named} if named else {}
    position = 0
    for name, dtype, shape in tensors:
        end = position + math.prod(shape) * DTYPE_BITS[dtype] // 8
        content[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
