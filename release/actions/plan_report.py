"""What `moe-release plan` shows: shards, bytes and parameters before anything is written."""

from __future__ import annotations

from typing import Any

from pruner.drop_map import DropMap, read_drop_map
from pruner.errors import InputError
from pruner.wording import counted
from release.card.claims import format_bytes, format_parameters
from release.context import Context
from release.stages.preflight import absent_map, not_buildable
from release.stages.prune import drop_map_path, plan_of


def describe_plan(context: Context) -> dict[str, Any]:
    """Plan of the manifest's variant as JSON.

    Raises:
        InputError: the manifest prunes nothing, or its drop map has to be ranked first.
    """
    prune = context.manifest.prune
    if prune is None:
        raise InputError(f"{context.loaded.path}: has no prune section: there is nothing to plan")
    known = known_map(context)
    if known is None and not context.options.from_headers:
        path = context.loaded.file(prune.drop_map) if prune.drop_map else drop_map_path(context)
        raise InputError(f"{path}: no drop map yet; run `moe-release rank {context.loaded.path} --work {context.work}` first")
    drop_map = known or counted_map(context)
    plan = plan_of(context, drop_map)
    base = context.base
    return {
        "name": context.manifest.name,
        "base": context.manifest.base.label,
        "drop_map_digest": known.digest if known else None,
        "experts": {"base": base.architecture.experts, "variant": plan.experts, "top_k": base.architecture.top_k},
        "layers": len(base.layers),
        "tensor_bytes": {"base": base.tensor_bytes, "variant": plan.total_bytes},
        "parameters": {"base": base.parameters, "variant": plan.total_parameters},
        "shards": [{"name": shard.name, "size": shard.size, "tensors": len(shard.tensors)} for shard in plan.shards],
        "ranges": sum(len(tensor.ranges) for shard in plan.shards for tensor in shard.tensors) if known else None,
        "unknown": not_buildable(context.loaded),
        "copied": list(plan.copies),
        "not_copied": list(base.left),
        "remarks": list(base.remarks),
    }


def known_map(context: Context) -> DropMap | None:
    """The pinned drop map or the one in the work folder, if there is one yet."""
    pinned = context.prune.drop_map
    if pinned is not None:
        return None if absent_map(context.loaded) else read_drop_map(context.loaded.file(pinned))
    return read_drop_map(drop_map_path(context)) if drop_map_path(context).exists() else None


def counted_map(context: Context) -> DropMap:
    """Any map that keeps the manifest's number of experts: bytes, parameters and shards depend on the number alone.

    Raises:
        InputError: the base has no more experts than are to stay.
    """
    experts, keep = context.base.architecture.experts, context.prune.experts
    if keep >= experts:
        raise InputError(f"{context.loaded.path}: prune.experts is {keep}, the base has {experts}; nothing to remove")
    return DropMap({layer: tuple(range(keep, experts)) for layer in context.base.layers}, experts)


def plan_table(report: dict[str, Any]) -> str:
    """The same for a person."""
    size, parameters = report["tensor_bytes"], report["parameters"]["variant"]
    lines = [
        (
            f"{report['name']}: {report['base']}, {report['experts']['base']} to "
            f"{counted(report['experts']['variant'], 'expert')} in each of {counted(report['layers'], 'layer')}"
        ),
        f"parameters   {report['parameters']['base']:>18,} → {report['parameters']['variant']:>18,}",
        f"tensor bytes {report['tensor_bytes']['base']:>18,} → {report['tensor_bytes']['variant']:>18,}",
        (
            f"base {format_bytes(size['base'])}, variant {format_bytes(size['variant'])}, "
            f"{format_parameters(parameters)} parameters"
        ),
        f"{counted(len(report['shards']), 'shard')} from {_ranges(report)}:",
        *(
            f"  {shard['name']}  {shard['size']:>16,} bytes  {counted(shard['tensors'], 'tensor')}"
            for shard in report["shards"]
        ),
    ]
    lines += report["remarks"]
    return "\n".join([*lines, *(f"cannot be built: {reason}" for reason in report["unknown"])])


def _ranges(report: dict[str, Any]) -> str:
    return "the base" if report["ranges"] is None else f"{report['ranges']} byte ranges of the base"
