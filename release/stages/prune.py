"""Prune: write the variant's weights by selecting bytes of the base."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pruner.build import BuildResult, build
from pruner.drop_map import DropMap, read_drop_map
from pruner.errors import CheckFailedError
from pruner.files import canonical_json, write_atomic
from pruner.plan import Plan, plan_build, require_publishable
from pruner.sources import Source
from pruner.wording import counted
from release.context import Context
from release.possible_experts import require_count
from release.records import read_made
from release.stages.resolve import base_digest, forget_digests, locked_base, remembered_digests
from release.stages.stage import Stage


def drop_map_path(context: Context) -> Path:
    """The drop map of this release in the work folder, made or copied by the rank stage."""
    return context.work / "drop_map.json"


def plan_of(context: Context, drop_map: DropMap) -> Plan:
    """What the build will write.

    Raises:
        InputError: the map does not fit, or keeps another number of experts than the manifest says.
    """
    manifest, prune = context.manifest, context.prune
    plan = plan_build(
        context.base,
        drop_map,
        base_name={"name": manifest.base.label, **({"revision": manifest.base.revision} if manifest.base.revision else {})},
        max_shard_size=manifest.weights.max_shard_size,
        metadata=manifest.weights.metadata,
        where=prune.drop_map.path if prune.drop_map else "drop map",
    )
    require_count(plan.experts, prune, context.base.architecture)
    require_publishable(drop_map, prune.drop_map.path if prune.drop_map else "drop map")
    return plan


def _inputs(context: Context) -> Any:
    drop_map = read_drop_map(drop_map_path(context))
    method = drop_map.provenance.get("ranking")  # it stands in the published metadata
    base = context.manifest.base
    return [base_digest(context), drop_map.digest, method, base.label, base.revision, context.manifest.weights.model_dump()]


def _run(context: Context) -> str:
    plan = plan_of(context, read_drop_map(drop_map_path(context)))
    target = context.work / "weights"
    if target.exists():  # an outdated build of ours: the fingerprint said so
        shutil.rmtree(target)
    source = context.base_source
    for remark in context.base.remarks:
        context.progress.note(remark)
    pins = _pins(context, source)
    try:
        result = build(plan, source, target, workers=context.options.workers, progress=context.progress, verify_base=pins)
    except CheckFailedError:
        forget_digests(context)
        raise
    write_atomic(_result_path(context), canonical_json(asdict(result)))
    return f"{counted(len(plan.shards), 'shard')}, {plan.total_bytes:,} bytes of tensors, {plan.total_parameters:,} parameters"


def _pins(context: Context, source: Source) -> dict[str, str]:
    """Digests that a remote base must still list, and those of a local one that the resolve stage only remembered."""
    files = locked_base(context).files
    listed = {name: files[name].sha256 for name, file in source.files.items() if name in files and file.sha256 is not None}
    return {**listed, **remembered_digests(context)}


def _result_path(context: Context) -> Path:
    return context.work / "build.json"


def build_result(context: Context) -> BuildResult:
    """Digests of the pruned weights as they were written."""
    return read_made(_result_path(context), BuildResult)


def _digests(context: Context) -> dict[str, str]:
    return {f"weights/{file.name}": file.sha256 for file in build_result(context).files}


def skip_base_release(context: Context) -> str | None:
    """Reason to skip the stages of the surgery when the manifest releases the base itself."""
    return None if context.manifest.prune else "the manifest prunes nothing"


STAGE = Stage(
    name="prune",
    title="pruning weights",
    run=_run,
    inputs=_inputs,
    outputs=lambda context: (context.work / "weights", _result_path(context)),
    digests=_digests,
    skip=skip_base_release,
    needs=("rank",),
)
