"""The golden self-test of a toolchain: whether its llama-quantize gives the bytes that every other exact build gives.

A small model whose numbers come from integer arithmetic is quantized to every K-quant and to the types that rows fall back to,
with and without an importance matrix; `golden_digests.py` has the tensors' digests.  A build that gives others is not wrong
(compilers may fuse a multiplication and an addition), but it is not bit-exact: nobody can expect its quants of another machine.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pruner.errors import InputError, MoeReleaseError, UnavailableError
from pruner.files import canonical_json, digest_of, read_json, sha256_bytes, write_atomic
from pruner.progress import SILENT, Progress
from release.gguf.golden_digests import GOLDEN
from release.gguf.packing import packed_entry, packed_text
from release.gguf.reader import DEFAULT_ALIGNMENT, KIND_NUMBERS, MAGIC, GgufHeader, read_header
from release.gguf.scratch import OUTPUT, scratch_folder
from release.gguf.toolchain import Toolchain, cache_folder
from release.processes import processor, run_tool

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.float32]]

MODEL, IMATRIX = "golden.gguf", "golden-imatrix.gguf"
COLUMNS, ROWS = 512, 24
TENSORS = ("token_embd", "blk.0.attn_q", "blk.0.attn_v", "blk.0.ffn_down", "blk.0.ffn_up")
TESTED = frozenset({"F32", "F16", "BF16", *(name.partition("+")[0].removesuffix("_S") for name in GOLDEN)})
"""The ggml types that the golden digests speak of; plain floats are copied or rounded, which every processor does alike."""
KINDS = {str: "str", int: "u32", float: "f32"}
"""Kind of a value's key in the golden files."""
_VERSION = 3


@dataclass(frozen=True)
class SelfTest:
    """What the self-test found: `differing` names the types whose bytes are others, `reason` why it could not be made."""

    differing: tuple[str, ...] = ()
    reason: str = ""

    @property
    def bit_exact(self) -> bool:
        """Whether every golden digest was met."""
        return not self.differing and not self.reason

    def covers(self, types: Iterable[str]) -> bool:
        """Whether quants of these ggml types may be called bit-identical: the toolchain is exact and was tested on them."""
        return self.bit_exact and set(types) <= TESTED

    def __str__(self) -> str:
        if self.bit_exact:
            return f"bit-exact: all {len(GOLDEN)} golden digests met"
        return f"not bit-exact: {self.reason or 'other bytes in ' + ', '.join(self.differing)}"


class _Record(BaseModel):
    """A self-test of one toolchain on one processor, as the cache holds it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    differing: tuple[str, ...]
    golden: str


def self_test(toolchain: Toolchain, *, cache: Path | None = None, progress: Progress = SILENT) -> SelfTest:
    """Whether a toolchain is bit-exact; tested once for each set of binaries on a kind of processor, then remembered.

    Args:
        toolchain: provides llama-quantize.
        cache: folder of the memory; the user's cache by default.
        progress: counts the types.

    A tool that cannot be run makes the toolchain "not bit-exact" with the reason, which is not remembered.
    """
    golden = digest_of(GOLDEN)
    path = (cache or cache_folder()) / "golden" / f"{_identity(toolchain)}.json"
    if (known := _remembered(path, golden)) is not None:
        return known
    try:
        found = golden_digests(toolchain, path.with_suffix(".log"), progress=progress)
    except MoeReleaseError as error:
        return SelfTest(reason=str(error))
    differing = tuple(name for name in GOLDEN if found.get(name) != GOLDEN[name])
    with suppress(OSError):  # a cache that cannot be written to costs a second each time, and nothing else
        write_atomic(path, canonical_json(_Record(differing=differing, golden=golden).model_dump(mode="json")))
    return SelfTest(differing)


def _identity(toolchain: Toolchain) -> str:
    """The binaries that quantize, and the processor: a build may choose its code by it."""
    needed = {name: sha256 for name, sha256 in toolchain.binaries.items() if not name.startswith("llama-")}
    return digest_of([needed, toolchain.binaries.get("llama-quantize"), processor()])


def _remembered(path: Path, golden: str) -> SelfTest | None:
    try:
        record = _Record.model_validate(read_json(path, "self-test"))
    except (InputError, ValidationError, OSError):
        return None
    return SelfTest(record.differing) if record.golden == golden else None


def golden_digests(toolchain: Toolchain, log: Path, *, progress: Progress = SILENT) -> dict[str, str]:
    """Digest of the golden model's tensors in each type, by `TYPE` and `TYPE+imatrix`.

    Raises:
        UnavailableError: llama-quantize is missing, fails, or the cache's disk is full.
        InputError: its output is no GGUF.
    """
    binary = toolchain.binary("llama-quantize")
    found: dict[str, str] = {}
    with _scratch(log) as folder, progress.task("self-test of llama-quantize", len(GOLDEN)) as advance:
        (folder / MODEL).write_bytes(golden_model())
        (folder / IMATRIX).write_bytes(golden_imatrix())
        for name in GOLDEN:
            kind, _, with_imatrix = name.partition("+")
            options = ["--imatrix", IMATRIX] if with_imatrix else []
            run_tool([binary, "--pure", *options, MODEL, OUTPUT, kind, "1"], log=log, folder=folder, timeout=120)
            found[name] = _tensor_digest(read_header(folder / OUTPUT))
            advance(1)
    return found


@contextmanager
def _scratch(log: Path) -> Iterator[Path]:
    try:
        with scratch_folder(log.with_suffix("")) as folder:
            yield folder
    except OSError as error:
        raise UnavailableError(f"{log.parent}: cannot be written to: {error.strerror}") from None


def _tensor_digest(header: GgufHeader) -> str:
    """Over name, type and bytes of every tensor; the header also holds versions and names, which say nothing of exactness."""
    data = header.path.read_bytes()
    return digest_of(
        [[each.name, each.type.name, sha256_bytes(data[each.offset : each.offset + each.size])] for each in header.tensors]
    )


def golden_values(rows: int, columns: int, seed: int) -> Floats:
    """A float32 matrix of exactly representable numbers: integers below 2**19 times a power of two, by integer arithmetic.

    Rows differ in scale by powers of two; every 61st number is an outlier, one row is zero and one is a ramp.  Bits are mixed
    as by the finalizer of MurmurHash3 (public domain, A. Appleby).
    """
    import numpy as np

    index = np.arange(rows * columns, dtype=np.uint32) + np.uint32(seed * 0x9E3779B1 & 0xFFFFFFFF)
    total = np.zeros(rows * columns, dtype=np.int64)
    for part in range(4):  # a sum of four is bell-shaped, as weights are
        mixed = index * np.uint32(4) + np.uint32(part)
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            mixed = (mixed ^ (mixed >> np.uint32(shift))) * np.uint32(factor)
        total += ((mixed ^ (mixed >> np.uint32(16))) & np.uint32(0xFFFF)).astype(np.int64) - 0x8000
    total[::61] *= 4
    matrix = total.reshape(rows, columns)
    matrix[rows // 2] = 0
    matrix[rows // 3] = np.arange(columns, dtype=np.int64) - columns // 2
    scales = np.array([2.0 ** (row % 7 - 20) for row in range(rows)], dtype=np.float32)
    return matrix.astype(np.float32) * scales[:, None]


def golden_model() -> bytes:
    """A GGUF with five small F32 tensors that llama-quantize takes for a model of one layer."""
    entries: dict[str, str | int | float] = {
        "general.architecture": "llama",
        "general.file_type": 0,
        "llama.block_count": 1,
        "llama.context_length": 32,
        "llama.embedding_length": COLUMNS,
        "llama.feed_forward_length": COLUMNS,
        "llama.attention.head_count": 8,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
    }
    tensors = {f"{name}.weight": golden_values(ROWS, COLUMNS, seed) for seed, name in enumerate(TENSORS)}
    return gguf_bytes(entries, tensors)


def golden_imatrix() -> bytes:
    """An importance matrix for the golden model, in the GGUF form of llama-imatrix."""
    import numpy as np

    tensors: dict[str, Floats] = {}
    for seed, name in enumerate(TENSORS):
        spread = golden_values(1, COLUMNS, 100 + seed)
        tensors[f"{name}.weight.in_sum2"] = np.abs(spread) + np.float32(2**-12)
        tensors[f"{name}.weight.counts"] = np.ones((1, 1), dtype=np.float32)
    entries: dict[str, str | int | float] = {
        "general.type": "imatrix",
        "imatrix.chunk_count": 1,
        "imatrix.chunk_size": 512,
    }
    return gguf_bytes(entries, tensors, datasets="golden")


def gguf_bytes(
    entries: Mapping[str, str | int | float], tensors: Mapping[str, Floats], *, datasets: str | None = None
) -> bytes:
    """A little-endian GGUF of scalars and F32 matrices; integers become u32, floats f32 (`docs/gguf.md` of ggml).

    `datasets` becomes the array of strings `imatrix.datasets`.
    """
    described: list[bytes] = []
    body = bytearray()
    for name, matrix in tensors.items():
        rows, columns = matrix.shape
        described.append(packed_text(name) + struct.pack("<IQQIQ", 2, columns, rows, 0, len(body)))
        body.extend(matrix.astype("<f4").tobytes())
        body.extend(b"\0" * (-len(body) % DEFAULT_ALIGNMENT))
    pairs = [packed_entry(name, KINDS[type(value)], value) for name, value in entries.items()]
    if datasets is not None:
        kinds = struct.pack("<IIQ", KIND_NUMBERS["array"], KIND_NUMBERS["str"], 1)
        pairs.append(packed_text("imatrix.datasets") + kinds + packed_text(datasets))
    head = MAGIC + struct.pack("<IQQ", _VERSION, len(tensors), len(pairs)) + b"".join(pairs) + b"".join(described)
    return head + b"\0" * (-len(head) % DEFAULT_ALIGNMENT) + bytes(body)
