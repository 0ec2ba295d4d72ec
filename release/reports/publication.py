"""A publication plan in words and as JSON: files, bytes, what is there already, what will be removed, what stays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pruner.wording import counted, some
from release.card.claims import format_bytes
from release.hub.publication_plan import PlannedFile, PublicationPlan
from release.hub.strangers import what_it_is

MOST_SHOWN = 10


def plan_json(plan: PublicationPlan, *, base_on_hub: bool) -> dict[str, Any]:
    """A plan for machines."""
    return {
        "repo": plan.repo,
        "exists": plan.head is not None,
        "head": plan.head,
        "private": plan.private,
        "files": len(plan.unchanged) + len(plan.changes),
        "bytes": _bytes([*plan.unchanged, *plan.changes]),
        "there": {"files": len(plan.unchanged) + len(plan.stored), "bytes": _bytes([*plan.unchanged, *plan.stored])},
        "new": {"files": len(plan.new), "bytes": plan.new_bytes},
        "estimated_bytes": plan.estimated_bytes(base_on_hub=base_on_hub),
        "set": [file.path for file in plan.changes],
        "removed": list(plan.removed),
        "stay": sorted(set(plan.foreign) - set(plan.pruned)),
    }


def _bytes(files: Iterable[PlannedFile]) -> int:
    return sum(file.size for file in files)


def plan_lines(plan: PublicationPlan, *, base_on_hub: bool) -> Iterator[str]:
    """A plan for a person: one line, and one more for what is removed and what stays."""
    report = plan_json(plan, base_on_hub=base_on_hub)
    there, new = report["there"], report["new"]
    where = plan.repo if report["exists"] else f"{plan.repo} (to be created)"
    words = f"{where}: {counted(report['files'], 'file')}, {format_bytes(report['bytes'])}"
    if plan.settled:
        yield f"{words}; all there, nothing to change"
    else:
        sent = f"{new['files']} new, {format_bytes(new['bytes'])} to send"
        if report["estimated_bytes"] < plan.new_bytes:
            sent += f", about {format_bytes(report['estimated_bytes'])} where Xet storage knows the base"
        yield f"{words}; {there['files']} there already ({format_bytes(there['bytes'])}), {sent}"
    for what, paths in (("of an older release, to be removed", plan.stale), ("--prune-remote removes", plan.pruned)):
        if paths:
            yield f"{plan.repo}: {what}: {some(paths, MOST_SHOWN)}"
    if report["stay"] and report["stay"] != [".gitattributes"]:
        yield f"{plan.repo}: not of this release, stays: {some(report['stay'], MOST_SHOWN)}"
    if strangers := [path for path in report["stay"] if what_it_is(path)]:
        shown = some(strangers, MOST_SHOWN)
        yield f"{plan.repo}: loaders read what is not of this release, and `verify` calls it BAD: {shown}; see --prune-remote"
