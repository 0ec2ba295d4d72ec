"""What a GGUF file holds, read back from the file itself: types, sizes, digests, the metadata that a card speaks of."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from pruner.errors import InputError
from pruner.files import BLOCK, digest_of, sha256_bytes
from pruner.progress import SILENT, Advance, Progress
from release.gguf.reader import GgufHeader, GgufTensor, Scalar, read_header
from release.gguf.side_digest import SideDigest
from release.gguf.types import BY_NAME, GgmlType

MODEL_KEYS = (
    "block_count",
    "context_length",
    "embedding_length",
    "expert_count",
    "expert_used_count",
    "expert_feed_forward_length",
)
FILE_KEYS = (
    "general.architecture",
    "general.name",
    "general.file_type",
    "general.quantization_version",
    "general.size_label",
    "quantize.imatrix.chunks_count",
    "quantize.imatrix.dataset",
    "quantize.imatrix.entries_count",
    "quantize.imatrix.file",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.model",
)


@dataclass(frozen=True)
class TensorSummary:
    """One tensor: ggml type, shape in ggml's order (row length first), size in bytes and digest of its bytes."""

    name: str
    type: str
    shape: tuple[int, ...]
    size: int
    sha256: str


@dataclass(frozen=True)
class GgufSummary:
    """A GGUF file in figures.

    `types` counts tensors per ggml type; `bits_per_weight` is 8 × tensor bytes / parameters, as llama.cpp counts it;
    `tensor_digest` covers (name, type, shape, bytes) of every tensor and nothing of the packaging.  `chosen` names the tensors
    whose type a tensor_types file chose; the file itself does not tell, so only `quantize` fills it.
    """

    architecture: str
    name: str
    tensor_count: int
    types: Mapping[str, int]
    parameters: int
    file_size: int
    bits_per_weight: float
    sha256: str
    tensor_digest: str
    metadata: Mapping[str, Scalar]
    tensors: tuple[TensorSummary, ...]
    chosen: frozenset[str] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """The summary without its tensors, for records and evidence."""
        return {
            "architecture": self.architecture,
            "bits_per_weight": round(self.bits_per_weight, 4),
            "file_size": self.file_size,
            "metadata": dict(self.metadata),
            "name": self.name,
            "parameters": self.parameters,
            "sha256": self.sha256,
            "tensor_count": self.tensor_count,
            "tensor_digest": self.tensor_digest,
            "types": dict(self.types),
        }


def summarize(path: Path, progress: Progress = SILENT) -> GgufSummary:
    """Read a GGUF file once, from front to back, in blocks of 1 MiB.

    Raises:
        InputError: the file is no GGUF, truncated or damaged.
    """
    header = read_header(path)
    try:
        with path.open("rb") as file, progress.task(f"reading back {path.name}", header.file_size, "bytes") as advance:
            sha256, digests = _digests(file, header, advance)
    except OSError as error:
        raise InputError(f"{path}: GGUF cannot be read: {error.strerror}") from None
    tensors = tuple(
        TensorSummary(tensor.name, tensor.type.name, tensor.shape, tensor.size, digests[tensor.name])
        for tensor in header.tensors
    )
    parameters = sum(tensor.elements for tensor in header.tensors)
    stored = sum(tensor.size for tensor in header.tensors)
    return GgufSummary(
        architecture=header.architecture,
        name=str(header.value("general.name") or ""),
        tensor_count=len(tensors),
        types=dict(sorted(Counter(tensor.type for tensor in tensors).items())),
        parameters=parameters,
        file_size=header.file_size,
        bits_per_weight=8 * stored / parameters if parameters else 0.0,
        sha256=sha256,
        tensor_digest=digest_of_tensors(tensors),
        metadata=_selected(header),
        tensors=tensors,
    )


def joined_summary(files: Sequence[GgufSummary]) -> GgufSummary:
    """The summary of a GGUF from those of its files; `sha256` of one in shards is that of the list of their digests."""
    if len(files) == 1:
        return files[0]
    tensors = tuple(tensor for file in files for tensor in file.tensors)
    parameters = sum(file.parameters for file in files)
    return replace(
        files[0],
        tensor_count=len(tensors),
        types=dict(sorted(Counter(tensor.type for tensor in tensors).items())),
        parameters=parameters,
        file_size=sum(file.file_size for file in files),
        bits_per_weight=8 * sum(tensor.size for tensor in tensors) / parameters if parameters else 0.0,
        sha256=digest_of([file.sha256 for file in files]),
        tensor_digest=digest_of_tensors(tensors),
        tensors=tensors,
    )


def digest_of_tensors(tensors: Iterable[TensorSummary]) -> str:
    """Digest over (name, type, shape, bytes) of tensors, whatever files they are in."""
    return digest_of(sorted([each.name, each.type, list(each.shape), each.sha256] for each in tensors))


def _digests(file: BinaryIO, header: GgufHeader, advance: Advance) -> tuple[str, dict[str, str]]:
    """Digest of the whole file, and of each tensor's bytes by name."""
    digests: dict[str, str] = {}
    position = 0
    with SideDigest() as whole:
        for tensor in sorted(header.tensors, key=lambda each: each.offset):
            for block in _blocks(file, tensor.offset - position, advance):
                whole.update(block)
            own = hashlib.sha256()
            for block in _blocks(file, tensor.size, advance):
                whole.update(block)  # on its own thread, while the tensor's digest takes the same block here
                own.update(block)
            digests[tensor.name] = own.hexdigest()
            position = tensor.offset + tensor.size
        for block in _blocks(file, header.file_size - position, advance):
            whole.update(block)
        return whole.hexdigest(), digests


def _blocks(file: BinaryIO, count: int, advance: Advance) -> Iterator[bytes]:
    """The next `count` bytes of the file, in blocks."""
    while count:
        block = file.read(min(count, BLOCK))
        if not block:
            raise InputError(f"{file.name}: GGUF shrank while it was read")
        yield block
        count -= len(block)
        advance(len(block))


def _selected(header: GgufHeader) -> dict[str, Scalar]:
    keys = [*FILE_KEYS, *(f"{header.architecture}.{key}" for key in MODEL_KEYS)]
    selected = {key: value for key in keys if (value := header.value(key)) is not None}
    template = header.value("tokenizer.chat_template")
    if isinstance(template, str):
        selected["tokenizer.chat_template.sha256"] = sha256_bytes(template.encode())
    return dict(sorted(selected.items()))


def block_size_of(quant_type: str) -> int:
    """Elements that share a block in the types that a llama-quantize type is named for; 1 for float types."""
    name = quant_type.upper()
    if name in BY_NAME:
        return BY_NAME[name].block_size
    if name.startswith("MXFP4"):
        return BY_NAME["MXFP4"].block_size
    return 256 if "_K" in name or name.startswith(("IQ", "TQ")) else 1


def fell_back(tensor: TensorSummary, quant_type: str) -> bool:
    """Whether a tensor's type is one that llama-quantize fell back to because its rows are not whole blocks."""
    wanted = block_size_of(quant_type)
    if len(tensor.shape) == 1 or tensor.shape[0] % wanted == 0:
        return False
    kind: GgmlType = BY_NAME[tensor.type]
    return kind.quantized or kind.name == "F16"


def fallbacks(summary: GgufSummary, quant_type: str) -> str:
    """Which types a quant really holds, in a sentence.

    Args:
        summary: of the quant; tensors that it calls chosen never count as a fallback.
        quant_type: what llama-quantize was asked for, such as `Q6_K`.

    Returns:
        Such as "Q6_K: 201 tensors Q6_K, 60 fell back to Q8_0 because 704 and 2112 are not multiples of 256".
    """
    lost = [tensor for tensor in summary.tensors if fell_back(tensor, quant_type) and tensor.name not in summary.chosen]
    names = {tensor.name for tensor in lost}
    kept = Counter(
        tensor.type
        for tensor in summary.tensors
        if tensor.name not in names and (BY_NAME[tensor.type].quantized or tensor.type == quant_type.upper())
    )
    words = [f"{count} {kind}" for kind, count in kept.most_common()]
    words[:1] = [word.replace(" ", " tensors ", 1) for word in words[:1]]
    if lost:
        targets = [f"{count} to {kind}" for kind, count in Counter(tensor.type for tensor in lost).most_common()]
        targets[0] = targets[0].replace(" ", " fell back ", 1)
        words.append(f"{_listed(targets)} because {_rows(lost)} of {block_size_of(quant_type)}")
    return f"{quant_type.upper()}: {', '.join(words) or 'no tensor is quantized'}"


def _rows(tensors: list[TensorSummary]) -> str:
    rows = [str(length) for length in sorted({tensor.shape[0] for tensor in tensors})]
    return f"{rows[0]} is not a multiple" if len(rows) == 1 else f"{_listed(rows)} are not multiples"


def _listed(words: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def differing_tensors(before: GgufHeader, after: GgufHeader) -> list[GgufTensor]:
    """Tensors of `after` that `before` does not have with the same name and shape, and those that `after` lacks."""
    known = {(tensor.name, tensor.shape) for tensor in before.tensors}
    found = {(tensor.name, tensor.shape) for tensor in after.tensors}
    return [
        *(tensor for tensor in after.tensors if (tensor.name, tensor.shape) not in known),
        *(tensor for tensor in before.tensors if (tensor.name, tensor.shape) not in found),
    ]
