"""Write the report: one local page with everything that a person looks at before a release is published."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pruner.files import read_json, sha256_bytes, write_atomic
from pruner.wording import counted
from release.card.compared import reference_of
from release.card.concerns import Concern, lock_warnings, overlap_warnings, run_warnings, table_warnings
from release.card.facts import Facts
from release.card.pictures.gallery import FOLDER
from release.card.render import own_templates, template_folder
from release.card.report import (
    InlinePicture,
    Report,
    Table,
    claims_table,
    digests_table,
    inline_picture,
    questions_table,
    render_report,
    results_table,
    seconds_table,
    times_table,
)
from release.context import Context
from release.lock import Lock, differences, read_committed_lock
from release.records import Record, read_record
from release.stages.card import card_folder, collect_facts
from release.stages.evaluate import evidence_of, timings_of
from release.stages.lock import STAGES as LOCKED_STAGES
from release.stages.lock import changed_inputs
from release.stages.lock_draft import draft_lock
from release.stages.prune import skip_base_release
from release.stages.stage import Stage

AFTER = ("lock", "publish", "readback")
"""Those that run after it: their times join at the end of a run that left the lock as it was, and in `moe-release report`."""
BEFORE = ("resolve", "analyze", "rank", "prune", "verify", "convert", "calibrate", "quantize", "quality", "eval", "card")
"""The stages whose times the page shows: those that leave something behind."""


def report_path(context: Context) -> Path:
    """The page.  It stays in the work folder: nothing of it is published."""
    return context.work / "report.html"


def collect_report(context: Context) -> Report:
    """Everything that the page shows, from what the work folder holds.

    Raises:
        CheckFailedError: the card has not been written.
    """
    context.record("card")
    facts, lock = collect_facts(context), draft_lock(context, stages=LOCKED_STAGES)
    claims = read_json(card_folder(context) / "claims.json", "the card's claims")
    tables = [results_table(facts["rows"])] if facts["rows"] else []
    tables.append(claims_table(claims))
    if context.manifest.eval:
        tables.append(questions_table(evidence_of(context)))
        if timings := timings_of(context):
            tables.append(seconds_table(timings))
    return Report(
        name=context.manifest.name,
        summary=_summary(context, facts),
        warnings=sorted(_warnings(context, facts, lock), key=lambda each: each.level != "stop"),
        tables=[*tables, *_workshop_tables(context, lock)],
        pictures=_pictures(context, claims),
    )


def _workshop_tables(context: Context, lock: Lock) -> list[Table]:
    """How the release was made: times and digests."""
    locked = read_committed_lock(context.loaded.lock_path)
    changed = {each.path: each.explained or each.kind for each in differences(locked.outputs, lock.outputs)} if locked else {}
    without = dict.fromkeys(lock.outputs, "no lock yet") if locked is None else {}
    return [times_table(_records(context, (*BEFORE, *AFTER))), digests_table(lock, changed or without)]


def _records(context: Context, stages: tuple[str, ...]) -> list[Record]:
    return [record for name in stages if (record := read_record(context.work, name))]


def _summary(context: Context, facts: Facts) -> str:
    """One line: what it is, and where it is to go."""
    experts = facts["experts"]
    what = f"{facts['base']['name']} with {experts['variant']} of {experts['base']} experts per layer"
    publish = context.manifest.publish
    if publish is None:
        return f"{what}. The manifest publishes nothing."
    repositories = " and ".join(filter(None, (publish.weights, publish.gguf)))
    return f"{what}. It would be published as {repositories}, {'private' if publish.private else 'open to everybody'}."


def _warnings(context: Context, facts: Facts, lock: Lock) -> Iterator[Concern]:
    locked = read_committed_lock(context.loaded.lock_path)
    if locked is None:
        yield from lock_warnings(None)
    else:
        changed, accepted = differences(locked.outputs, lock.outputs), context.options.update_lock
        yield from lock_warnings(changed, changed_inputs(locked, lock), accepted=accepted)
    yield from overlap_warnings(facts["contamination"], evaluated=context.manifest.eval is not None)
    if context.manifest.eval:
        yield from run_warnings(evidence_of(context), facts["runs"], reference_of(context.loaded))
    yield from table_warnings(facts["rows"])
    if facts["license"] is None:
        yield Concern("look", "no license is known: neither the base's card nor card.license names one")


def _pictures(context: Context, claims: dict[str, Any]) -> list[InlinePicture]:
    folder = card_folder(context) / FOLDER
    names = [name for name in ("results", "outcomes", "quants", "experts") if f"pictures.{name}.alt" in claims]
    return [inline_picture((folder / f"{name}.svg").read_bytes(), claims[f"pictures.{name}.alt"]["value"]) for name in names]


def store_report(context: Context, report: Report) -> None:
    """Write the page."""
    own = own_templates(context.loaded.root, context.manifest.card.templates)
    write_atomic(report_path(context), render_report(report, own).encode())


def _run(context: Context) -> str:
    report = collect_report(context)
    store_report(context, report)
    count = len(report.warnings)
    first = f": {report.warnings[0].text}" if report.warnings else ""
    return f"{report_path(context)}, {counted(count, 'warning')}{first}"


def _inputs(context: Context) -> Any:
    """The lock to be, the lock that stands, and what the page is made with."""
    committed = context.loaded.lock_path
    shipped = {path.name: sha256_bytes(path.read_bytes()) for path in sorted(template_folder().glob("report.*"))}
    return [
        sha256_bytes(draft_lock(context, stages=LOCKED_STAGES).to_bytes()),
        sha256_bytes(committed.read_bytes()) if committed.exists() else None,
        {record.stage: [record.seconds, record.peak_memory] for record in _records(context, BEFORE)},
        own_templates(context.loaded.root, context.manifest.card.templates),
        shipped,
        context.options.update_lock,
    ]


STAGE = Stage(
    name="report",
    title="writing the report",
    run=_run,
    inputs=_inputs,
    outputs=lambda context: (report_path(context),),
    skip=skip_base_release,
    needs=("card",),
    again=lambda context: store_report(context, collect_report(context)),
)
