"""How a published variant was made, from its own files: drop map, cap of a shard, metadata of the headers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pruner.checkpoint import INDEX, METADATA, SINGLE, Checkpoint
from pruner.drop_map import DropMap, parse_drop_map
from pruner.errors import InputError
from pruner.files import require_canonical
from pruner.plan import DEFAULT_SHARD_SIZE, Plan, plan_build
from pruner.safetensors_format import Header, Metadata
from pruner.sources import Source, read_source_header, read_source_json

INFER = "`moe-release infer` finds them by their router rows"


@dataclass(frozen=True)
class Layout:
    """Everything but the base that determines the bytes of a variant."""

    drop_map: DropMap
    base_name: Mapping[str, str]
    max_shard_size: int
    metadata: Metadata


def planned(layout: Layout, base: Checkpoint, target: Source) -> Plan:
    """The plan that would make `target` of `base`, if the target is what it says.

    Raises:
        InputError: the drop map does not fit the base.
    """
    return plan_build(
        base,
        layout.drop_map,
        base_name=layout.base_name,
        max_shard_size=layout.max_shard_size,
        metadata=layout.metadata,
        where=f"{target.label}/{METADATA}",
    )


def read_layout(target: Source) -> Layout:
    """Read a target's metadata file and the headers of its shards; no tensor data.

    Raises:
        InputError: the metadata file is missing or damaged, or there is no shard.
        UnavailableError: the target cannot be reached.
    """
    where = f"{target.label}/{METADATA}"
    if METADATA not in target.files:
        raise InputError(f"{where}: does not exist, so the target does not say which experts it keeps; {INFER}")
    content = read_source_json(target, METADATA, "the drop metadata")
    drop = content.get("per_layer_drop") if isinstance(content, dict) else None
    named = content.get("base_model") if isinstance(content, dict) else None
    named = {"name": named} if isinstance(named, str) else named  # as others write it
    if not isinstance(drop, dict) or not drop or not isinstance(named, dict):
        raise InputError(
            f"{where}: has no per_layer_drop or no base_model, so it does not say which experts were kept of what; {INFER}"
        )
    require_canonical(content, where)
    headers = []
    for name in shards_of(target):
        with suppress(InputError):  # a damaged header tells nothing of the layout; the comparison names it later
            headers.append(read_source_header(target, name))
    bare = parse_drop_map(drop, where)
    drop_map = DropMap(bare.drop, bare.experts, {"ranking": content.get("method")})
    base_name = {key: value for key, value in named.items() if isinstance(value, str)}
    return Layout(drop_map, base_name, _cap(headers), "pt" if any(header.metadata for header in headers) else "none")


def shards_of(target: Source) -> tuple[str, ...]:
    """Names of the shards that the target's index lists and that are there, in order.

    Raises:
        InputError: it has none.
    """
    names: Any = {SINGLE}
    if INDEX in target.files:
        index = read_source_json(target, INDEX, "the index")
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(weight_map, dict):
            raise InputError(f"{target.label}/{INDEX}: has no weight_map")
        names = {name for name in weight_map.values() if isinstance(name, str)}
    found = tuple(sorted(name for name in names if name in target.files))
    if not found:
        raise InputError(f"{target.label}: has no shard of safetensors")
    return found


def _cap(headers: list[Header]) -> int:
    """A cap in tensor bytes under which greedy packing gives these shards, if any does.

    A shard of several tensors is not larger than the cap, and together with the next tensor it is; so the largest such shard
    is a cap.  A tensor that has a shard of its own tells nothing: it may be larger than the cap.
    """
    sizes = [sum(tensor.size for tensor in header.tensors) for header in headers if len(header.tensors) > 1]
    if len(headers) == 1:
        return max([*sizes, DEFAULT_SHARD_SIZE])
    return max([*sizes, 1])
