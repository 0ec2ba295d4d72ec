"""A quant that is cut from the base's GGUF, inside a release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pruner.drop_map import read_drop_map
from pruner.errors import CheckFailedError, InputError
from pruner.files import path_inside
from release.context import Context
from release.documents import place_of
from release.gguf.cut import cut, leftovers
from release.gguf.cut_plan import CutPlan, plan_cut
from release.gguf.located import LocatedGguf, locate, locate_on_hub
from release.gguf.summary import GgufSummary, fallbacks, joined_summary, summarize
from release.manifest import BaseQuant, LoadedManifest
from release.near_files import near_file
from release.stages.prune import drop_map_path


def base_quant(loaded: LoadedManifest, source: BaseQuant) -> LocatedGguf:
    """The base's GGUF with its header; on the Hub it is read by ranges, and never as a whole.

    Raises:
        InputError: there is no such file, or it is no usable GGUF.
        UnavailableError: the Hub does not give it.
    """
    if source.path is None:
        return locate_on_hub(str(source.repo), source.at, str(source.file))
    path = path_inside(loaded.root, source.path)
    if not path.is_file():
        where, near = place_of(loaded.path, source.path), near_file(loaded.root, source.path)
        raise InputError(f"{where}: {source.path} does not exist beside the manifest{near}")
    return locate(path)


def cut_quant(context: Context, name: str, source: BaseQuant) -> dict[str, Any]:
    """Cut one quant, or keep what an earlier, killed run finished of it; read it back.

    Returns:
        its summary with its `files`, and `cut_from`: what the lock and the cards say of its origin.
    """
    base, target, record = base_quant(context.loaded, source), context.gguf_file(name), _record_path(context, name)
    drop_map = read_drop_map(drop_map_path(context))
    plan = plan_cut(base, drop_map, name=context.manifest.name, where=str(drop_map_path(context)))
    before, cap = leftovers(target, record), context.gguf.max_shard_size
    result = cut(base, plan, target, max_bytes=cap, pinned=source.digests, record=record, progress=context.progress)
    paths = [target.with_name(file.name) for file in result.files]
    for other in {*before} - {*paths}:  # of another cap
        other.unlink(missing_ok=True)
    shards = [summarize(path, context.progress) for path in paths]
    for path, shard, file in zip(paths, shards, result.files, strict=True):
        if shard.sha256 != file.sha256:
            raise CheckFailedError(f"{path}: changed after it was written; a disk or memory fault?")
    summary = joined_summary(shards)
    sizes = [part.header.file_size for part in base.parts]
    origin = {**origin_of(source, plan), "sizes": sizes, "checked": result.checked, "imatrix": dict(plan.imatrix) or None}
    return {
        **summary.to_json(),
        "composition": fallbacks(summary, plan.file_type or name),
        "cut_from": origin,
        "files": [file_entry(path.name, shard) for path, shard in zip(paths, shards, strict=True)],
    }


def origin_of(source: BaseQuant, plan: CutPlan) -> dict[str, Any]:
    """What cards say of where a cut comes from."""
    return {"label": source.label, "files": source.files, "notes": plan.notes}


def file_entry(name: str, summary: GgufSummary) -> dict[str, Any]:
    """One file of a quant: what its record, the lock and the cards say of it."""
    return {
        "name": name,
        "size": summary.file_size,
        "sha256": summary.sha256,
        "tensor_digest": summary.tensor_digest,
    }


def cut_leftovers(context: Context, name: str) -> list[Path]:
    """Files that killed runs left of a cut, finished ones and beginnings, for the next one to judge."""
    return leftovers(context.gguf_file(name), _record_path(context, name))


def _record_path(context: Context, name: str) -> Path:
    return context.work / "records" / f"cut-{name}.json"
