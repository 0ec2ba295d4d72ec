"""A quant that is cut from the base's GGUF, inside a release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pruner.drop_map import read_drop_map
from pruner.errors import CheckFailedError, InputError
from pruner.files import path_inside
from release.context import Context
from release.gguf.cut import cut, partial_files
from release.gguf.cut_plan import plan_cut
from release.gguf.located import LocatedGguf, locate, locate_on_hub
from release.gguf.summary import fallbacks, summarize
from release.manifest import BaseQuant, LoadedManifest
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
        raise InputError(f"{loaded.path}: {source.path} does not exist beside the manifest")
    return locate(path)


def cut_quant(context: Context, name: str, source: BaseQuant) -> dict[str, Any]:
    """Cut one quant, or keep what an earlier, killed run finished of it; read it back.

    Returns:
        its summary with `cut_from`: what the lock and the cards say of its origin.
    """
    base, target = base_quant(context.loaded, source), context.gguf_file(name)
    drop_map = read_drop_map(drop_map_path(context))
    plan = plan_cut(base, drop_map, name=context.manifest.name, where=str(drop_map_path(context)))
    record = context.work / "records" / f"cut-{name}.json"
    result = cut(base, plan, target, pinned=source.sha256, record=record, progress=context.progress)
    summary = summarize(target, context.progress)
    if summary.sha256 != result.sha256:
        raise CheckFailedError(f"{target}: changed after it was written; a disk or memory fault?")
    origin = {
        **source.model_dump(exclude_none=True),
        "label": source.label,
        "size": base.header.file_size,
        "checked": result.checked,
        "imatrix": dict(plan.imatrix) or None,
        "notes": plan.notes,
    }
    return {**summary.to_json(), "composition": fallbacks(summary, plan.file_type or name), "cut_from": origin}


def unfinished(target: Path) -> tuple[Path, ...]:
    """Files that a killed run left of a cut, for the next one."""
    return partial_files(target)
