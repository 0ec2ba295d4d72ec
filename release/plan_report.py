"""What `moe-release plan` shows: shards, bytes and parameters before anything is written."""

from __future__ import annotations

from typing import Any

from pruner.drop_map import read_drop_map
from pruner.errors import CheckFailedError, InputError
from release.card.claims import format_bytes, format_parameters
from release.context import Context
from release.stages.prune import drop_map_path, plan_of


def describe_plan(context: Context) -> dict[str, Any]:
    """Plan of the manifest's variant as JSON.

    Raises:
        InputError: the manifest prunes nothing.
        CheckFailedError: the drop map has to be measured first.
    """
    prune = context.manifest.prune
    if prune is None:
        raise InputError(f"{context.loaded.path}: has no prune section: there is nothing to plan")
    path = context.loaded.file(prune.drop_map) if prune.drop_map else drop_map_path(context)
    if not path.exists():
        raise CheckFailedError(f"{path}: no drop map yet; run `moe-release rank {context.loaded.path}` first")
    drop_map = read_drop_map(path)
    plan = plan_of(context, drop_map)
    base = context.base
    return {
        "name": context.manifest.name,
        "base": context.manifest.base.label,
        "drop_map_digest": drop_map.digest,
        "experts": {"base": base.architecture.experts, "variant": plan.experts, "top_k": base.architecture.top_k},
        "layers": len(base.layers),
        "tensor_bytes": {"base": base.tensor_bytes, "variant": plan.total_bytes},
        "parameters": {"base": base.parameters, "variant": plan.total_parameters},
        "shards": [{"name": shard.name, "size": shard.size, "tensors": len(shard.tensors)} for shard in plan.shards],
        "ranges": sum(len(tensor.ranges) for shard in plan.shards for tensor in shard.tensors),
        "copied": list(plan.copies),
    }


def plan_table(report: dict[str, Any]) -> str:
    """The same for a person."""
    size, parameters = report["tensor_bytes"], report["parameters"]["variant"]
    lines = [
        (
            f"{report['name']}: {report['base']}, {report['experts']['base']} to {report['experts']['variant']} experts "
            f"in each of {report['layers']} layers"
        ),
        f"parameters   {report['parameters']['base']:>18,} → {report['parameters']['variant']:>18,}",
        f"tensor bytes {report['tensor_bytes']['base']:>18,} → {report['tensor_bytes']['variant']:>18,}",
        (
            f"base {format_bytes(size['base'])}, variant {format_bytes(size['variant'])}, "
            f"{format_parameters(parameters)} parameters"
        ),
        f"{len(report['shards'])} shards from {report['ranges']} byte ranges of the base:",
        *(f"  {shard['name']}  {shard['size']:>16,} bytes  {shard['tensors']} tensors" for shard in report["shards"]),
    ]
    return "\n".join(lines)
