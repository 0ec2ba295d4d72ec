"""Patched scores in a table whose rows do not show their raw scores."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from release.card.lint.document import Document, Line
from release.card.lint.facts import RAW, raw_scores
from release.card.lint.finding import Finding
from release.card.lint.knowledge import Knowledge
from release.card.lint.quantities import fractions, quantities

KIND = "raw beside patched"
PATCHED = re.compile(r"\bpatch(?:ed|es|ing)?\b", re.IGNORECASE)


def find(document: Document, _: Knowledge) -> Iterator[Finding]:
    """A card that tells of one raw score, and compares patched ones of which the others' raw scores are nowhere."""
    raw = {str(count) for _, count in raw_scores(document)}
    if not raw or not any(PATCHED.search(line.text) for line in document.lines):
        return
    if any(RAW.search(title) for table in document.tables for title in table.header):
        return
    for above, group in _results(document):
        scores = [fractions(line.text)[-1] for line in group]
        told = len(raw)
        if not RAW.search(above) and len({score.whole for score in scores}) == 1 and told < len(scores):
            yield Finding(
                group[0].number,
                KIND,
                f"{len(scores)} scores after a patch stand here, and the raw score of {told} of them is told; "
                "raw and patched belong side by side in every row",
            )


def _results(document: Document) -> Iterator[tuple[str, Sequence[Line]]]:
    """Neighbouring lines that each hold counts and a percentage, with the line above them."""
    group: list[Line] = []
    above = before = ""
    for line in document.lines:
        scored = bool(fractions(line.text)) and any(each.unit == "%" for each in quantities(line.text))
        if scored and group and line.number == group[-1].number + 1:
            group.append(line)
        else:
            if len(group) > 1:
                yield above, group
            group, above = ([line], before) if scored else ([], "")
        before = line.text
    if len(group) > 1:
        yield above, group
