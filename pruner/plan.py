"""Plans: what a build will write, known from headers alone.

Pruning experts on axis 0 is byte selection: a planned shard is a few kilobytes of header and a list of byte ranges of the base.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pruner.checkpoint import INDEX, METADATA, Checkpoint, StoredTensor
from pruner.drop_map import DropMap, require_fits
from pruner.errors import InputError
from pruner.expert_groups import surviving_groups
from pruner.families import config_with_experts, renumber, require_complete
from pruner.files import canonical_json
from pruner.safetensors_format import Metadata, build_header, data_order

DEFAULT_SHARD_SIZE = 5 << 30
_PATH = re.compile(r"file:/|(?<![\w.~:/-])(?:~?/[\w.~-]+/|~/|[A-Za-z]:[\\/]|\\\\)")
"""The beginning of a path of some machine, which an address or the name of a repository has not."""


class HasSize(Protocol):
    """Anything that takes bytes."""

    @property
    def size(self) -> int:
        """Bytes."""


SizedT = TypeVar("SizedT", bound=HasSize)


@dataclass(frozen=True)
class ByteRange:
    """`length` bytes from `start` of the base's file `file`."""

    file: str
    start: int
    length: int


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the variant and the ranges of the base that hold its bytes, in order."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    ranges: tuple[ByteRange, ...]

    @property
    def size(self) -> int:
        """Bytes of data."""
        return sum(part.length for part in self.ranges)

    @property
    def elements(self) -> int:
        """Number of elements."""
        product = 1
        for extent in self.shape:
            product *= extent
        return product


@dataclass(frozen=True)
class PlannedShard:
    """A shard to write: header bytes, then the tensors' data in this order."""

    name: str
    header: bytes
    tensors: tuple[PlannedTensor, ...]

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + sum(tensor.size for tensor in self.tensors)


@dataclass(frozen=True)
class Plan:
    """Everything that a build writes: shards, small files with their content, and names of files copied from the base."""

    shards: tuple[PlannedShard, ...]
    texts: Mapping[str, bytes]
    copies: tuple[str, ...]
    experts: int
    total_bytes: int
    total_parameters: int


def plan_build(
    base: Checkpoint,
    drop_map: DropMap,
    *,
    base_name: Mapping[str, str],
    max_shard_size: int = DEFAULT_SHARD_SIZE,
    metadata: Metadata = "pt",
    where: str = "drop map",
) -> Plan:
    """Plan the variant that `drop_map` makes of `base`.

    `base_name` says in the published metadata what the base is (repo and revision); `max_shard_size` is a cap in tensor bytes;
    `where` names the map in errors.

    Raises:
        InputError: the map does not fit the base, or the base's experts are not those that its config says.
    """
    require_complete(base.tensors, base.architecture, base.source.label)
    require_fits(drop_map, base.architecture, base.layers, where)
    tensors = list(_planned_tensors(base, drop_map))
    groups = list(packed(tensors, max_shard_size))
    names = [f"model-{number:05d}-of-{len(groups):05d}.safetensors" for number in range(1, len(groups) + 1)]
    shards = tuple(_shard(name, group, metadata) for name, group in zip(names, groups, strict=True))
    total_bytes = sum(tensor.size for tensor in tensors)
    total_parameters = sum(tensor.elements for tensor in tensors)
    experts = drop_map.kept_count(base.architecture.experts)
    expert_groups = surviving_groups(drop_map.drop, base.architecture, where)
    config = config_with_experts(base.config, base.architecture, experts, expert_groups)
    texts = {
        "config.json": json.dumps(config, indent=2, ensure_ascii=False).encode() + b"\n",
        INDEX: _index(shards, total_bytes, total_parameters),
        METADATA: canonical_json(_drop_metadata(base, drop_map, base_name, experts)),
    }
    return Plan(shards, texts, base.others, experts, total_bytes, total_parameters)


def _planned_tensors(base: Checkpoint, drop_map: DropMap) -> Iterator[PlannedTensor]:
    """The variant's tensors in the base's index order."""
    architecture = base.architecture
    keep = {layer: drop_map.keep(layer, architecture.experts) for layer in base.layers}
    for name, stored in base.tensors.items():
        place = architecture.classify(name)
        if place is None:
            yield PlannedTensor(name, stored.info.dtype, stored.info.shape, (_whole(stored),))
        elif place.expert is None:
            yield _sliced(name, stored, keep[place.layer], architecture.experts)
        elif place.expert in keep[place.layer]:
            new_name = renumber(name, architecture, keep[place.layer].index(place.expert))
            yield PlannedTensor(new_name, stored.info.dtype, stored.info.shape, (_whole(stored),))


def _whole(stored: StoredTensor) -> ByteRange:
    return ByteRange(stored.shard, stored.info.start, stored.info.size)


def _sliced(name: str, stored: StoredTensor, kept: tuple[int, ...], experts: int) -> PlannedTensor:
    """The rows of the kept experts of a stacked tensor; neighbouring rows become one range."""
    info = stored.info
    if info.elements == 1 and experts > 1:  # one scale that all experts share
        return PlannedTensor(name, info.dtype, info.shape, (_whole(stored),))
    if not info.shape or info.shape[0] != experts or info.size % experts:
        raise InputError(f"{stored.shard}: tensor {name!r} has shape {list(info.shape)}, expected {experts} experts on axis 0")
    row = info.size // experts
    ranges = tuple(ByteRange(stored.shard, info.start + first * row, count * row) for first, count in runs_of(kept))
    return PlannedTensor(name, info.dtype, (len(kept), *info.shape[1:]), ranges)


def runs_of(ids: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(first, count) of each run of consecutive ids."""
    first = count = 0
    for number in ids:
        if count and number == first + count:
            count += 1
        else:
            if count:
                yield first, count
            first, count = number, 1
    if count:
        yield first, count


def packed(items: Iterable[SizedT], cap: int) -> Iterator[list[SizedT]]:
    """Greedy packing in the given order into groups of at most `cap` bytes; what is larger gets a group of its own."""
    group: list[SizedT] = []
    size = 0
    for item in items:
        if group and size + item.size > cap:
            yield group
            group, size = [], 0
        group.append(item)
        size += item.size
    if group:
        yield group


def _shard(name: str, group: list[PlannedTensor], metadata: Metadata) -> PlannedShard:
    by_name = {tensor.name: tensor for tensor in group}
    ordered = tuple(by_name[key] for key in data_order((tensor.name, tensor.dtype) for tensor in group))
    header = build_header(((tensor.name, tensor.dtype, tensor.shape) for tensor in ordered), metadata)
    return PlannedShard(name, header, ordered)


def _index(shards: Iterable[PlannedShard], total_bytes: int, total_parameters: int) -> bytes:
    """The index as transformers writes it: sorted keys, two spaces."""
    weight_map = {tensor.name: shard.name for shard in shards for tensor in shard.tensors}
    content = {"metadata": {"total_parameters": total_parameters, "total_size": total_bytes}, "weight_map": weight_map}
    return json.dumps(content, indent=2, sort_keys=True).encode() + b"\n"


def require_publishable(drop_map: DropMap, where: str) -> None:
    """Raise InputError when what a map says of itself, and the variant will say to everybody, holds a path of a machine."""
    for key in ("ranking", "base_model"):
        if found := next((word for word in _texts(drop_map.provenance.get(key)) if _PATH.search(word)), None):
            raise InputError(
                f"{where}: its {key!r} holds the path {found[:80]!r}, which would be published; take it out of the map"
            )


def _texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value, keys too."""
    if isinstance(value, str):
        yield value
    parts = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    for each in parts:
        yield from _texts(each)


def _drop_metadata(base: Checkpoint, drop_map: DropMap, base_name: Mapping[str, str], experts: int) -> dict[str, Any]:
    """What is published beside the weights about the drop map: ids, method, digests; never a path."""
    before = base.architecture.experts
    return {
        "format": "moe-release/expert-drop-metadata/v1",
        "base_model": dict(base_name),
        "method": drop_map.provenance.get("ranking", {"method": "pinned"}),
        "original_experts": before,
        "target_experts": experts,
        "drop_map_digest": drop_map.digest,
        "per_layer_keep": {layer: list(drop_map.keep(layer, before)) for layer in drop_map.drop},
        "per_layer_drop": {layer: list(ids) for layer, ids in drop_map.drop.items()},
    }
