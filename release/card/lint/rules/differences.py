"""Differences of scores that do not follow from the counts that the card itself gives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise

from release.card.lint.directions import directed, directed_quantities
from release.card.lint.document import Document, Line
from release.card.lint.finding import Finding
from release.card.lint.knowledge import Knowledge
from release.card.lint.quantities import Fraction, Quantity, Range, fractions, quantities, shown
from release.card.lint.rules.deltas import UNIT

KIND = "difference"
CHANGED = re.compile(
    r"\b(?:change|difference|delta|drop|fall|loss|decrease|reduction|increase|gain|rise)\s+(?:of|is|:)\s*\Z", re.IGNORECASE
)
LEAST = Decimal("1e-9")
"""A percentage to divide by."""
REFERENCE = re.compile(r"\breference\b|\bbaseline\b", re.IGNORECASE)
BETWEEN = re.compile(r"\s*(?P<word>vs\.?|versus|against|compared (?:to|with)|to|→)\s*", re.IGNORECASE)


def find(document: Document, _: Knowledge) -> Iterator[Finding]:
    """Rows of a results table against its reference row, and sentences that give two percentages and their difference."""
    scores = scores_by_percent(document)
    reference: Fraction | None = None
    for line in document.lines:
        counts = [each for each in fractions(line.text) if each.part <= each.whole]
        values = directed_quantities(line.text)
        points = [each for each in values if each.unit == "pp" and each.signed]
        if counts and not points and (reference is None or REFERENCE.search(line.text)) and any(v.unit == "%" for v in values):
            reference = counts[-1]
        elif len(points) == 1 and len(counts) == 1 and reference is not None and reference.whole == counts[0].whole:
            yield from _against(line, counts[0], reference, points[0])
        elif points or any(each.unit == "pp" for each in values):
            yield from _sentence(line, values, scores)
        else:
            yield from _percent_change(line, values)


def scores_by_percent(document: Document) -> dict[str, Fraction]:
    """Counts by the percentage that the card shows them as."""
    found: dict[str, Fraction] = {}
    for line in document.lines:
        percents = [each for each in quantities(line.text) if each.unit == "%" and not each.signed]
        for count in fractions(line.text) if percents else ():
            for percent in percents:
                if percent.places and percent.shows(count.percent):
                    found.setdefault(str(percent.value), count)
    return found


def _against(line: Line, count: Fraction, reference: Fraction, delta: Quantity) -> Iterator[Finding]:
    true = count.percent - reference.percent
    if not delta.shows(true):
        yield Finding(
            line.number,
            KIND,
            f"{count} against {reference} is {shown(true, delta.places)} pp, the card says {delta.text.strip()}",
        )


def _percent_change(line: Line, values: list[Quantity]) -> Iterator[Finding]:
    """From 81.82 % to 80.30 %, a change of −1.52 %: in points, unless it is the change relative to the first."""
    if line.cells or len(values) != 3 or any(each.unit != "%" for each in values):  # noqa: PLR2004  # before, after, change
        return
    first, last, delta = values
    delta = directed(line.text, delta)
    gap = BETWEEN.fullmatch(line.text[first.end : last.start])
    told = delta.signed or CHANGED.search(line.text[last.end : delta.start])
    if first.signed or last.signed or gap is None or gap["word"].lower() not in ("to", "→") or not told:
        return
    true = _difference(first, last, (None, None))
    relative = Range(100 * (last.range.low / first.range.high - 1), 100 * (last.range.high / max(first.range.low, LEAST) - 1))
    if relative.meets(delta.range if delta.signed else _either(delta, relative)):
        return
    said = delta.text.strip()
    if true.meets(delta.range if delta.signed else _either(delta, true)):
        yield Finding(line.number, UNIT, f"{said}: the difference of two percentages is in percentage points (pp)")
    elif CHANGED.search(line.text[last.end : delta.start]):
        found = shown((true.low + true.high) / 2, delta.places)
        how = f"from {first.text.strip()} to {last.text.strip()}"
        yield Finding(line.number, KIND, f"{how} is {found} pp, the card says {said}")


def _sentence(line: Line, values: list[Quantity], scores: dict[str, Fraction]) -> Iterator[Finding]:
    percents = [each for each in values if each.unit == "%" and not each.signed]
    points = [each for each in values if each.unit == "pp"]
    pairs = [
        (one, two, match["word"].lower())
        for one, two in pairwise(percents)
        if (match := BETWEEN.fullmatch(line.text[one.end : two.start]))
    ]
    if len(points) != 1 or len(pairs) != 1:
        return
    one, two, word = pairs[0]
    first, last = (one, two) if word in ("to", "→") else (two, one)
    counts = scores.get(str(first.value)), scores.get(str(last.value))
    true = _difference(first, last, counts)
    delta = points[0]
    if not true.meets(delta.range if delta.signed else _either(delta, true)):
        how = f"{counts[1]} against {counts[0]}" if all(counts) else f"{last.text} against {first.text}"
        rounded = last.value - first.value
        taken = all(counts) and (rounded if delta.signed else abs(rounded)) == delta.value
        why = "; the difference was taken of rounded percentages" if taken else ""
        found = shown((true.low + true.high) / 2, delta.places)
        yield Finding(line.number, KIND, f"{how} is {found} pp, the card says {delta.text.strip()}{why}")


def _difference(first: Quantity, last: Quantity, counts: tuple[Fraction | None, Fraction | None]) -> Range:
    if counts[0] and counts[1]:
        true = counts[1].percent - counts[0].percent
        return Range(true, true)
    return Range(last.range.low - first.range.high, last.range.high - first.range.low)


def _either(delta: Quantity, true: Range) -> Range:
    """A difference without a sign has the sign of the true one."""
    negative = true.high < Decimal(0)
    return Range(-delta.range.high, -delta.range.low) if negative else delta.range
