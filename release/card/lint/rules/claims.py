"""Numbers that no claim shows; only where the claims are known."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

from release.card.lint.document import Document, Line
from release.card.lint.finding import Finding
from release.card.lint.knowledge import Knowledge
from release.card.lint.quantities import quantities

KIND = "number without claim"
RANGE = re.compile(r"(?<=\d)\s?–\s?(?=\d)")


def find(document: Document, knowledge: Knowledge) -> Iterator[Finding]:
    """Numbers of text and tables; names in backquotes, code, addresses and the front matter state nothing."""
    if knowledge.claims is None:
        return
    known: set[tuple[Decimal, str]] = set()
    for claim in knowledge.claims.values():
        known |= _numbers(claim["shown"])
    for line in document.lines:
        text = _without_names(line)
        for each in quantities(RANGE.sub(" – ", text)):
            if (abs(each.value), each.unit) not in known:
                yield Finding(line.number, KIND, f"{each.text.strip()} is shown by no claim")


def _numbers(text: str) -> set[tuple[Decimal, str]]:
    return {(abs(each.value), each.unit) for each in quantities(RANGE.sub(" – ", text))}


def _without_names(line: Line) -> str:
    """The text without what stands in backquotes, unless that is nothing but a number."""
    text = line.text
    for name in line.names:
        if not any(each.text.strip() == name.strip() for each in quantities(name)):
            text = text.replace(name, " ", 1)
    return text
