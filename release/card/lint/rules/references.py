"""Rows of scores whose difference in percentage points does not follow from the row that they are compared with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from release.card.lint.document import Document, Line
from release.card.lint.finding import Finding
from release.card.lint.knowledge import Knowledge
from release.card.lint.quantities import Quantity, Range, fractions, quantities, shown
from release.card.lint.rules import differences
from release.card.lint.rules.deltas import SIGN

KIND = differences.KIND
REFERENCE = re.compile(r"\b(?:reference|base(?:line)?|original|teacher|unpruned)\b", re.IGNORECASE)
LOOSE = re.compile(r"[^\d%|]{0,60}[\s|]*$")
MOST_ROWS = 200
NEAR = 2
"""Percent: counts further from the row's percentage are none of its score; a nearer one is another rule's slip."""


def find(document: Document, knowledge: Knowledge) -> Iterator[Finding]:
    """Tables, and runs of lines whose table markup was lost; a line that the counts already prove wrong is left out."""
    told = {finding.line for finding in differences.find(document, knowledge)}
    for rows in (*(table.rows for table in document.tables), *_runs(document)):
        for finding in _compared([score for row in rows[:MOST_ROWS] if (score := _score(row)) is not None]):
            if finding.line not in told:
                yield finding


def _runs(document: Document) -> Iterator[list[Line]]:
    """Lines of text that follow each other and are a label with a percentage; a line that is none ends the run."""
    run: list[Line] = []
    for line in document.lines:
        values = quantities(line.text)[:1] if not line.cells else []
        fits = bool(values) and values[0].unit == "%" and LOOSE.fullmatch(line.text[: values[0].start])
        if run and (not fits or line.number != run[-1].number + 1):
            yield run
            run = []
        if fits:
            run.append(line)
    yield run


Score = tuple[Line, Range, Quantity, Quantity | None]
"""The row, its score in percent, that score as it is shown, and its difference."""


def _score(row: Line) -> Score | None:
    """A row's one percentage, exact where the row has its counts, and its one difference."""
    values = quantities(row.text)
    percents = [each for each in values if each.unit == "%" and not each.signed]
    points = [each for each in values if each.unit == "pp"]
    if len(percents) != 1 or len(points) > 1 or any(not each.signed for each in points):
        return None
    if points and points[0].start < percents[0].end:
        return None
    counts = [each for each in fractions(row.text) if abs(each.percent - percents[0].value) < NEAR]
    exact = Range(counts[0].percent, counts[0].percent) if len(counts) == 1 else percents[0].range
    return row, exact, percents[0], points[0] if points else None


def _compared(rows: Sequence[Score]) -> Iterator[Finding]:
    """A difference must be that to the reference row; where none is named so, that to any other row will do."""
    plain = [row for row in rows if row[3] is None]
    named = [row for row in plain if REFERENCE.search(row[0].text)]
    references = named or plain
    for row, score, percent, delta in rows:
        if delta is None or not references:
            continue
        others = [other for other in rows if other[0] is not row]
        if any(_difference(other[1], score).meets(delta.range) for other in others):
            continue
        reference = references[0]
        true = _difference(reference[1], score)
        found = f"{shown((true.low + true.high) / 2, delta.places)} pp"
        said = f"{percent.text.strip()} against {reference[2].text.strip()} (line {reference[0].number}) is {found}"
        kind = SIGN if Range(-true.high, -true.low).meets(delta.range) else KIND
        yield Finding(row.number, kind, f"{said}, the card says {delta.text.strip()}")


def _difference(reference: Range, score: Range) -> Range:
    return Range(score.low - reference.high, score.high - reference.low)
