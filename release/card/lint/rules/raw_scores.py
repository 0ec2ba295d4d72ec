"""Patched scores in a table whose rows do not show their raw scores."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from release.card.lint.document import Document, Line
from release.card.lint.finding import Finding
from release.card.lint.knowledge import Knowledge
from release.card.lint.quantities import fractions, quantities

KIND = "raw beside patched"
RAW = re.compile(r"\braw\b", re.IGNORECASE)
PATCHED = re.compile(r"\bpatch(?:ed|es|ing)?\b", re.IGNORECASE)


def find(document: Document, _: Knowledge) -> Iterator[Finding]:
    """A card that tells of one raw score, and compares patched ones of which the others' raw scores are nowhere."""
    raw = {str(count) for line in document.lines if RAW.search(line.text) for count in fractions(line.text)}
    if not raw or not any(PATCHED.search(line.text) for line in document.lines):
        return
    headers = {table.number: table.header for table in document.tables}
    for group in _results(document):
        above = [line.text for line in document.lines if line.number < group[0].number][-2:]
        if any(RAW.search(text) for text in above) or any(RAW.search(" ".join(header)) for header in headers.values()):
            continue
        scores = [fractions(line.text)[-1] for line in group]
        if len({score.whole for score in scores}) == 1 and len(raw) < len(scores):
            yield Finding(
                group[0].number,
                KIND,
                f"{len(scores)} scores after a patch stand here, and the raw score of {len(raw)} of them is told; "
                "raw and patched belong side by side in every row",
            )


def _results(document: Document) -> Iterator[Sequence[Line]]:
    """Neighbouring lines that each hold counts and a percentage."""
    group: list[Line] = []
    for line in document.lines:
        scored = bool(fractions(line.text)) and any(each.unit == "%" for each in quantities(line.text))
        if scored and (not group or line.number == group[-1].number + 1):
            group.append(line)
            continue
        if len(group) > 1:
            yield group
        group = [line] if scored else []
    if len(group) > 1:
        yield group
