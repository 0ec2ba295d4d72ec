"""How a published variant was made, from its own files: drop map, cap of a shard, metadata of the headers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from pruner.checkpoint import INDEX, METADATA, Checkpoint
from pruner.drop_map import DropMap, drop_map_from_keep, parse_drop_map
from pruner.errors import InputError
from pruner.families import MOST_EXPERTS
from pruner.files import require_canonical
from pruner.plan import DEFAULT_SHARD_SIZE, Plan, plan_build
from pruner.safetensors_format import Header, Metadata
from pruner.sources import Source, read_source_header, read_source_json

INFER = "`moe-release infer` finds them by their router rows"


@dataclass(frozen=True)
class Layout:
    """Everything but the base that determines the bytes of a variant, as far as the target tells it.

    `listed` has the tensors of each shard that the index lists; `headers` those that can be read: a damaged one tells nothing.
    """

    drop_map: DropMap
    base_name: Mapping[str, str]
    listed: Mapping[str, tuple[str, ...]]
    headers: Mapping[str, Header]

    @property
    def metadata(self) -> Metadata:
        """What most headers have, so that one that was changed does not make the others wrong."""
        named = [bool(header.metadata) for header in self.headers.values()]
        return "pt" if 2 * sum(named) >= len(named) else "none"


def planned(layout: Layout, base: Checkpoint, target: Source) -> Plan:
    """The plan that would make `target` of `base`, if the target is what it says.

    The cap of a shard shows in headers and in the index.  When not all shards are as large as the headers have it, one of them
    is damaged, missing or another's; then the index is asked, and whichever fits more shards is believed.

    Raises:
        InputError: the drop map does not fit the base.
    """
    where = f"{target.label}/{METADATA}"
    at = partial(plan_build, base, layout.drop_map, base_name=layout.base_name, metadata=layout.metadata, where=where)
    by_headers = at(max_shard_size=cap_of([tensor.size for tensor in header.tensors] for header in layout.headers.values()))
    if _fitting(by_headers, target) == len(by_headers.shards):
        return by_headers
    sizes = {tensor.name: tensor.size for shard in by_headers.shards for tensor in shard.tensors}
    by_index = at(max_shard_size=cap_of([sizes.get(name, 0) for name in names] for names in layout.listed.values()))
    return max(by_headers, by_index, key=lambda plan: _fitting(plan, target))


def _fitting(plan: Plan, target: Source) -> int:
    """Number of planned shards that the target has in this size."""
    files = target.files
    return sum(shard.name in files and files[shard.name].size == shard.size for shard in plan.shards)


def read_layout(target: Source) -> Layout:
    """Read a target's metadata file, its index and the headers of its shards; no tensor data.

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
    listed = _listed(target)
    headers = {}
    for name in sorted(listed.keys() & target.files.keys()):
        with suppress(InputError):  # damaged, which the comparison says of this shard later
            headers[name] = read_source_header(target, name)
    bare = _told_map(content, where)
    drop_map = DropMap(bare.drop, bare.experts, {"ranking": content.get("method")})
    base_name = {key: value for key, value in named.items() if isinstance(value, str)}
    return Layout(drop_map, base_name, listed, headers)


def _told_map(content: Mapping[str, Any], where: str) -> DropMap:
    """What the metadata say is dropped; the complement of what they say is kept, if only that has the digest that they tell.

    So a damaged id makes the metadata BAD, and not every shard.

    Raises:
        InputError: neither is a drop map.
    """
    digest, experts = content.get("drop_map_digest"), content.get("original_experts")
    with suppress(InputError):
        told = parse_drop_map(content["per_layer_drop"], where)
        if digest in (None, told.digest):
            return told
    if type(experts) is int and 0 < experts <= MOST_EXPERTS and isinstance(content.get("per_layer_keep"), dict):
        with suppress(InputError):
            kept = parse_drop_map(content["per_layer_keep"], where).drop
            told = drop_map_from_keep([*kept.values()], [*kept], experts, {})
            if told.digest == digest:
                return told
    return parse_drop_map(content["per_layer_drop"], where)


def _listed(target: Source) -> dict[str, tuple[str, ...]]:
    """Shards by name, with the tensors that the index has there; of a missing or unusable index, all shards without any.

    Raises:
        InputError: there is no shard.
    """
    found = sorted(name for name in target.files if name.endswith(".safetensors"))
    if not found:
        raise InputError(f"{target.label}: has no shard of safetensors")
    index: Any = None
    with suppress(InputError):  # the index is compared as a whole later
        index = read_source_json(target, INDEX, "the index")
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    by_shard: dict[str, list[str]] = {}
    for tensor, name in weight_map.items() if isinstance(weight_map, dict) else ():
        if isinstance(name, str):
            by_shard.setdefault(name, []).append(tensor)
    return {name: tuple(by_shard[name]) for name in sorted(by_shard)} or dict.fromkeys(found, ())


def cap_of(shards: Iterable[list[int]]) -> int:
    """A cap in tensor bytes under which greedy packing gives these shards, if any does; they are sizes of their tensors.

    A shard of several tensors is not larger than the cap, and together with the next tensor it is; so the largest such shard
    is a cap.  A tensor that has a shard of its own tells nothing: it may be larger than the cap.
    """
    shards = list(shards)
    sizes = [sum(tensors) for tensors in shards if len(tensors) > 1]
    return max([*sizes, DEFAULT_SHARD_SIZE if len(shards) == 1 else 1])
