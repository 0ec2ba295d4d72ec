"""The report of a release for the person who decides to publish it: one HTML page that needs no network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from release.card.claims import format_bytes
from release.card.concerns import Concern
from release.card.render import NO_TEMPLATES, render, template_folder
from release.card.table import Row
from release.evaluation.evidence import Answered, Evidence
from release.evaluation.timing import Timing
from release.lock import Lock, LockedFile
from release.records import Record

Style = Literal["", "number", "code", "words"]
ASSETS = ("report.css", "report.js")


@dataclass(frozen=True)
class Cell:
    """What a cell shows, and the number by which its column sorts; None sorts by the text."""

    text: str
    sort: float | None = None
    style: Style = ""


@dataclass(frozen=True)
class Table:
    """A section of the page: rows that can be sorted and filtered."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    note: str = ""


@dataclass(frozen=True)
class InlinePicture:
    """A picture as a data URL, and what it shows in words."""

    data: str
    alt: str


@dataclass(frozen=True)
class Report:
    """All that the page shows; warnings come first, then results, pictures and the other tables."""

    name: str
    summary: str
    warnings: Sequence[Concern]
    tables: Sequence[Table]
    pictures: Sequence[InlinePicture]


def assets() -> dict[str, str]:
    """Style and script of the page."""
    return {name: (template_folder() / name).read_text(encoding="utf-8") for name in ASSETS}


def render_report(report: Report, own: Mapping[str, str] = NO_TEMPLATES) -> str:
    """The page.  Its policy lets a browser run this style and this script, by their digests, and load nothing at all."""
    from markupsafe import Markup

    found = assets()
    style, script = (found[name] for name in ASSETS)
    policy = (
        f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    shipped = {"style": Markup(style), "script": Markup(script)}  # noqa: S704  # our own files, not anyone's input
    return render("report.html.j2", {"report": report, "policy": policy, **shipped}, own, html=True).lstrip()


def _source(text: str) -> str:
    """The form in which a Content-Security-Policy allows one text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def inline_picture(svg: bytes, alt: str) -> InlinePicture:
    """An SVG inside the page; as an image it can run no script."""
    return InlinePicture(f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}", alt)


def results_table(rows: Sequence[Row]) -> Table:
    """The results table of the card."""

    def share(claim: Any) -> Cell:
        return Cell(str(claim), 100 * claim.value, "number") if claim else Cell("")

    columns = (
        "Model",
        "Quant",
        "Correct, raw → patched",
        "Raw",
        "Raw, 95 %",
        "Patched",
        "Patched, 95 %",
        "Difference",
    )
    cells = [
        (
            Cell(f"{row.label}{' (reported)' if row.reported else ''}", style="words"),
            Cell(row.quant),
            Cell(row.correct, style="number"),
            share(row.raw),
            Cell(row.raw_interval, style="number"),
            share(row.patched),
            Cell(row.interval, style="number"),
            _difference(row),
        )
        for row in rows
    ]
    return Table("results", "Results", columns, cells)


def _difference(row: Row) -> Cell:
    """In points and words; it sorts by points."""
    if row.points is None:
        return Cell(row.difference, style="words")
    return Cell(f"{row.points}: {row.difference}", 100 * float(row.points.value), "words")


def claims_table(claims: Mapping[str, Mapping[str, Any]]) -> Table:
    """Every value that the card may print, with the place that it comes from."""
    cells = [
        (
            Cell(name, style="code"),
            Cell(str(claim["shown"]), claim["value"] if isinstance(claim["value"], int | float) else None, "words"),
            Cell(str(claim["unit"])),
            Cell(str(claim["source"]), style="words"),
        )
        for name, claim in claims.items()
    ]
    return Table("claims", "Claims and their sources", ("Claim", "As shown", "Unit", "Source"), cells)


def times_table(records: Sequence[Record]) -> Table:
    """What each stage took when it last ran."""
    cells = [
        (
            Cell(record.stage),
            Cell(f"{record.seconds:,.1f}", record.seconds, "number"),
            Cell(format_bytes(record.peak_memory), record.peak_memory, "number"),
            Cell(f"{len(record.outputs):,}", len(record.outputs), "number"),
        )
        for record in records
    ]
    total = sum(record.seconds for record in records)
    note = f"{total:,.1f} seconds in all, each when it last ran; memory is the largest of the process and its tools until then."
    return Table("times", "Stage times", ("Stage", "Seconds", "Peak memory", "Files made"), cells, note)


def digests_table(lock: Lock, changed: Mapping[str, str]) -> Table:
    """Every input and output with its SHA-256, and how it compares with the lock beside the manifest."""
    cells = [
        _digest("output", path, file, changed.get(path, "varies" if file.varies else "as locked"))
        for path, file in lock.outputs.items()
    ]
    cells += [_digest("base", path, file, "") for path, file in lock.inputs.base.files.items()]
    cells += [_digest("input", path, file, "") for path, file in lock.inputs.files.items()]
    return Table("digests", "Digests", ("Kind", "File", "Size", "Against the lock", "SHA-256"), cells)


def _digest(kind: str, path: str, file: LockedFile, against: str) -> tuple[Cell, ...]:
    size = Cell(format_bytes(file.size), file.size, "number")
    return Cell(kind), Cell(path, style="code"), size, Cell(against), Cell(file.sha256, style="code")


def questions_table(runs: Mapping[str, Evidence]) -> Table:
    """How each question went in each run, by its id alone: exams are not to be revealed."""
    found = {quant: {_asked(run, each): each for each in run.questions} for quant, run in runs.items()}
    ids = dict.fromkeys(name for answers in found.values() for name in answers)
    cells = [(Cell(each, style="code"), *(_answer(answers.get(each)) for answers in found.values())) for each in ids]
    note = "Right or wrong after the patch, which asks again only for the outcomes that the protocol names in advance."
    return Table("questions", "Questions", ("Question", *found), cells, note)


def seconds_table(timings: Mapping[str, Timing]) -> Table:
    """How long the questions of each run took, first replies and patches apart."""
    cells = []
    for quant, timing in timings.items():
        patches = [each.patch for each in timing.questions if each.patch is not None]
        kinds = {"first reply": [each.raw for each in timing.questions], "patch": patches}
        cells += [(Cell(quant), Cell(kind), *_spread(seconds)) for kind, seconds in kinds.items() if seconds]
    columns = ("Quant", "Reply", "Questions", "Median", "Longest", "In all")
    note = "From request to reply, on the machine of this run: another run takes other seconds, and gives the same answers."
    return Table("seconds", "Seconds per question", columns, cells, note)


def _spread(seconds: Sequence[float]) -> tuple[Cell, ...]:
    """Number, median, maximum and sum."""
    shown = (Cell(f"{each:,.3f}", each, "number") for each in (median(seconds), max(seconds), sum(seconds)))
    return Cell(f"{len(seconds):,}", len(seconds), "number"), *shown


def _asked(run: Evidence, answered: Answered) -> str:
    """The question's id, and of a question that is asked several times, which time it was."""
    return f"{answered.id} ({answered.repeat + 1} of {run.repeats})" if run.repeats > 1 else answered.id


def _answer(answered: Answered | None) -> Cell:
    if answered is None:
        return Cell("not asked")
    patched = ", patched" if answered.patched else ""
    return Cell(f"{answered.outcome}{patched}: {'right' if answered.correct else 'wrong'}")
