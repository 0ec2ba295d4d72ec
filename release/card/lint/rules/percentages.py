"""Percentages that do not follow from the counts beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from release.card.lint.document import Document
from release.card.lint.finding import Finding
from release.card.lint.knowledge import Knowledge
from release.card.lint.quantities import Fraction, Quantity, fractions, quantities, shown

KIND = "percentage"
FEWEST = 10
"""Questions of an exam: 24/7 is none."""
BETWEEN = re.compile(r"[\s|=:(,~≈→*]*(?:correct|right|or|i\.e\.)?[\s|=:(,~≈*]*")


def find(document: Document, _: Knowledge) -> Iterator[Finding]:
    """A percentage right behind counts, or right before them in parentheses, must be one of these counts' shares."""
    for line in document.lines:
        counts = fractions(line.text)
        percents = [each for each in quantities(line.text) if each.unit == "%" and not each.signed]
        for percent in percents:
            near = _beside(line.text, percent, counts)
            if near is None:
                continue
            if near.part > near.whole:
                if near.whole < FEWEST:
                    continue
                yield Finding(line.number, KIND, f"{near}: more correct than there are questions")
            elif not any(percent.shows(each.percent) for each in counts):
                yield Finding(
                    line.number,
                    KIND,
                    f"{near} is {shown(near.percent, percent.places)} %, the card says {percent.text.strip()}",
                )


def _beside(text: str, percent: Quantity, counts: list[Fraction]) -> Fraction | None:
    for count in counts:
        if count.end <= percent.start and BETWEEN.fullmatch(text[count.end : percent.start]):
            return count
        if percent.end <= count.start and re.fullmatch(r"\s?\(", text[percent.end : count.start]):
            return count
    return None
