"""Plans of cutting a GGUF: what the pruned GGUF will hold, known from the base's header and a drop map alone.

A cut GGUF is a new header and byte ranges of the base's GGUF.  llama-quantize never lets a block cross an expert, so the bytes
equal those of quantizing the pruned model, unless the number of experts itself decides a tensor's type (`other_types`) or the
base was quantized with an imatrix, which one made on the pruned model would not equal.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pruner.drop_map import DropMap, require_fits
from pruner.errors import InputError
from pruner.expert_groups import surviving_groups
from pruner.families import MTP
from pruner.files import digest_of, sha256_bytes
from pruner.plan import ByteRange, runs_of
from pruner.sources import Source, read_ranges
from release.gguf.convert import MODEL_NAME
from release.gguf.experts import GgufExperts, find_experts
from release.gguf.located import LocatedGguf
from release.gguf.model_names import ORDER, name_entries
from release.gguf.packing import packed_entry, packed_text
from release.gguf.reader import MAGIC, GgufEntry, GgufHeader, GgufTensor

IMATRIX = "quantize.imatrix."
"""How the keys begin with which llama-quantize names the imatrix that it used."""
Part = bytes | ByteRange
"""Bytes that are new, or a range of one of the base's files."""
UNIFORM = ("F32", "F16", "BF16", "Q8_0", "MXFP4_MOE")
"""File types whose tensors have the same types for any number of experts above one."""
SMALLEST = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M")
FEW, EIGHT = 4, 8
"""Numbers of experts that llama-quantize treats apart (`llama_tensor_get_type_impl`)."""


@dataclass(frozen=True)
class CutTensor:
    """A tensor of the cut GGUF: `runs` are ranges of the base's files; `kept` its experts, None when it is copied whole."""

    base: GgufTensor
    shape: tuple[int, ...]
    runs: tuple[ByteRange, ...]
    kept: tuple[int, ...] | None

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(run.length for run in self.runs)


@dataclass(frozen=True)
class CutPlan:
    """A GGUF that need not exist: `entries` and descriptions of `tensors`, then these, each padded to `alignment`.

    `other_types` says why llama-quantize would choose other types for the pruned model, or is None; `imatrix` holds the base's
    metadata of the imatrix that it was quantized with, empty when there was none.
    """

    name: str
    experts: int
    version: int
    entries: tuple[Part, ...]
    tensors: tuple[CutTensor, ...]
    alignment: int
    file_type: str | None
    other_types: str | None
    imatrix: Mapping[str, Any]

    @cached_property
    def header(self) -> tuple[Part, ...]:
        """All before the tensors' bytes."""
        return tuple(_merged(_header(self)))

    @property
    def parts(self) -> Iterator[Part]:
        """The whole file, front to back."""
        yield from self.header
        for tensor in self.tensors:
            yield from tensor.runs
            if padding := -tensor.size % self.alignment:
                yield bytes(padding)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return sum(map(length_of, self.parts))

    @property
    def notes(self) -> list[str]:
        """How the file differs from one quantized from the pruned model, as clauses that go on after "cut from …"."""
        found = []
        if self.imatrix:
            found.append(
                "which was made with an imatrix of the base: not the bytes that an imatrix of the pruned model would give"
            )
        if self.other_types is not None:
            found.append(f"whose types it keeps: {self.other_types}")
        return found

    def digest(self, source: Source) -> str:
        """What tells this plan from others, and changes when the base's file does; never that of the cut file."""
        return _digest_of(self.parts, source)


@dataclass(frozen=True)
class CopyPlan:
    """A file of the base as it is: `size` bytes of `name`."""

    name: str
    size: int

    @property
    def parts(self) -> Iterator[Part]:
        """The whole file."""
        yield ByteRange(self.name, 0, self.size)

    def digest(self, source: Source) -> str:
        """See `CutPlan.digest`."""
        return _digest_of(self.parts, source)


def _digest_of(parts: Iterator[Part], source: Source) -> str:
    names, listed = set(), list[Any]()
    for part in parts:
        if isinstance(part, ByteRange):
            names.add(part.file)
        listed.append(sha256_bytes(part) if isinstance(part, bytes) else [part.file, part.start, part.length])
    return digest_of([listed, {name: source.state(name) for name in sorted(names)}])


def plan_cut(base: LocatedGguf, drop_map: DropMap, *, name: str, where: str) -> CutPlan:
    """Plan the GGUF that `drop_map` leaves of `base`.

    Args:
        base: a GGUF of the unpruned model, in one file or in parts; the plan is of one file, see `split_plan`.
        drop_map: experts that go, by layer.
        name: the pruned model's name; what the converter derives from it goes into the metadata.
        where: names the map in errors.

    Raises:
        InputError: the GGUF cannot be cut, the map does not fit, or the name is none.
    """
    if not MODEL_NAME.fullmatch(name):
        raise InputError(f"model name {name!r}: use letters, digits, dot, dash, underscore and space, at most 128")
    header, found = base.header, find_experts(base.header)
    drop_map = _without_lost_block(drop_map, found)
    require_fits(drop_map, found.architecture, found.layers, where)
    experts = drop_map.kept_count(found.architecture.experts)
    tensors = tuple(_cut_tensor(each, found, drop_map, base.file_of(each)) for each in header.tensors)
    groups = surviving_groups(drop_map.drop, found.architecture, where)
    return CutPlan(
        name=name,
        experts=experts,
        version=header.version,
        entries=tuple(_entries(header.entries, _changes(header, name, tensors, experts, groups), base.name)),
        tensors=tensors,
        alignment=header.alignment,
        file_type=file_type(header),
        other_types=_other_types(file_type(header), found.architecture.experts, experts),
        imatrix={key: header.value(key) for key in header.entries if key.startswith(IMATRIX)},
    )


def _without_lost_block(drop_map: DropMap, found: GgufExperts) -> DropMap:
    """Some converters leave out the multi-token prediction block; what the map says of it has no object then."""
    layers = {layer: ids for layer, ids in drop_map.drop.items() if layer in found.layers or not layer.startswith(MTP)}
    return DropMap(layers, drop_map.experts, drop_map.provenance) if layers else drop_map


def _cut_tensor(tensor: GgufTensor, found: GgufExperts, drop_map: DropMap, file: str) -> CutTensor:
    layer = found.tensors.get(tensor.name)
    if layer is None:
        return CutTensor(tensor, tensor.shape, (ByteRange(file, tensor.offset, tensor.size),), None)
    experts = found.architecture.experts
    kept, size = drop_map.keep(layer, experts), tensor.size // experts
    runs = tuple(ByteRange(file, tensor.offset + first * size, count * size) for first, count in runs_of(kept))
    return CutTensor(tensor, (*tensor.shape[:-1], len(kept)), runs, kept)


def _changes(
    header: GgufHeader, name: str, tensors: Iterable[CutTensor], experts: int, groups: int | None
) -> dict[str, bytes | None]:
    """New entries by key; None for one that goes."""
    shapes = {each.base.name: each.shape for each in tensors}
    changes = {
        key: None if value is None else packed_entry(key, "str", value) for key, value in name_entries(name, shapes).items()
    }
    counts = {f"{header.architecture}.expert_count": experts}
    if groups is not None:
        counts[f"{header.architecture}.expert_group_count"] = groups
    return {**changes, **{key: packed_entry(key, header.entries[key].kind, count) for key, count in counts.items()}}


def _header(plan: CutPlan) -> Iterator[Part]:
    described = b"".join(_descriptions(plan.tensors, plan.alignment))
    yield MAGIC + struct.pack("<IQQ", plan.version, len(plan.tensors), len(plan.entries))
    yield from plan.entries
    yield described
    position = 24 + sum(map(length_of, plan.entries)) + len(described)
    yield bytes(-position % plan.alignment)


def _entries(entries: Mapping[str, GgufEntry], changes: Mapping[str, bytes | None], file: str) -> Iterator[Part]:
    """The base's entries in their order, changed; those that name the model stand together, as the converter writes them."""
    named = [key for key in ORDER if changes.get(key) is not None or (key in entries and key not in changes)]
    first = next((key for key in entries if key in ORDER), None)
    if first is None:
        yield from (change for key in named if (change := changes.get(key)))
    for key, each in entries.items():
        if key not in ORDER:
            yield changes.get(key) or ByteRange(file, each.start, each.end - each.start)
        elif key == first:
            for name in named:
                yield changes.get(name) or ByteRange(file, entries[name].start, entries[name].end - entries[name].start)


def _descriptions(tensors: Iterable[CutTensor], alignment: int) -> Iterator[bytes]:
    offset = 0
    for each in tensors:
        count = len(each.shape)
        yield packed_text(each.base.name) + struct.pack(f"<I{count}QIQ", count, *each.shape, each.base.type.number, offset)
        offset += each.size + -each.size % alignment


def _merged(parts: Iterable[Part]) -> Iterator[Part]:
    """The same with neighbours joined, so that a long header is few requests."""
    last: Part = b""
    for part in parts:
        if isinstance(part, bytes) and isinstance(last, bytes):
            last += part
        elif isinstance(part, ByteRange) and isinstance(last, ByteRange) and part.start == last.start + last.length:
            last = ByteRange(last.file, last.start, last.length + part.length)
        else:
            yield last
            last = part
    yield last


def length_of(part: Part) -> int:
    """Bytes of a part."""
    return len(part) if isinstance(part, bytes) else part.length


def after(parts: Iterable[Part], skipped: int) -> Iterator[Part]:
    """What remains of the parts behind their first `skipped` bytes."""
    for part in parts:
        length = length_of(part)
        if skipped >= length:
            skipped -= length
        elif isinstance(part, bytes):
            yield part[skipped:]
            skipped = 0
        else:
            yield ByteRange(part.file, part.start + skipped, length - skipped)
            skipped = 0


def read_parts(parts: Iterable[Part], source: Source) -> Iterator[bytes]:
    """The bytes of the parts in blocks of at most 1 MiB; no block holds bytes of two parts."""
    ordered = list(parts)
    stream = read_ranges(source, (part for part in ordered if isinstance(part, ByteRange)))
    for part in ordered:
        if isinstance(part, bytes):
            yield part
            continue
        left = part.length
        while left:
            block = next(stream)
            left -= len(block)
            yield block


def file_type(header: GgufHeader) -> str | None:
    """What llama-quantize calls the file's type, such as Q4_K_M, from `general.file_type`; None when it is unknown."""
    from gguf import LlamaFileType

    number = header.value("general.file_type")
    known = {each.value: each.name.removeprefix("MOSTLY_").removeprefix("ALL_") for each in LlamaFileType}
    return known.get(number) if isinstance(number, int) else None


def _other_types(kind: str | None, before: int, experts: int) -> str | None:
    """Why llama-quantize would choose other types for the pruned model than it chose for the base."""
    if experts == before or (kind in UNIFORM and experts > 1):
        return None
    for number, treated in ((before, "the base"), (experts, "the pruned model")):
        if number == EIGHT:
            return f"llama-quantize chooses other types for a model of {EIGHT} experts, and {treated} has {EIGHT}"
    if experts == 1:
        return "llama-quantize chooses other types for a model of one expert"
    if experts < FEW <= before and (kind is None or kind in SMALLEST):
        return f"llama-quantize may choose other types for a model of fewer than {FEW} experts"
    return None
