"""Differences in a row that do not follow from its two values, have the wrong sign, or the wrong unit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

from release.card.lint.document import Document
from release.card.lint.finding import Finding
from release.card.lint.knowledge import Knowledge
from release.card.lint.quantities import Quantity, Range, quantities, shown
from release.card.lint.rows import Row, comparing_rows

VALUE, SIGN, UNIT = "delta", "delta sign", "delta unit"
PERCENT_HEADER = re.compile(
    r"(?<![\d\s])\s%(?=\s*(?:vs|change|diff|delta|Δ))|^%\s*(?:vs|change|diff|delta|Δ)|[Δ∆]\s?%", re.IGNORECASE
)
TABLE_LENGTH = 30


def find(document: Document, _: Knowledge) -> Iterator[Finding]:
    """Each comparing row, and headers that promise % over cells in percentage points."""
    for row in comparing_rows(document):
        if row.delta is not None and (finding := _row(row, row.delta)) is not None:
            yield finding
    yield from _headers(document)


def _row(row: Row, delta: Quantity) -> Finding | None:
    before, after = (row.before.scaled, row.after.scaled) if delta.unit in ("%", "pp") else (row.before.range, row.after.range)
    if delta.unit == "pp" and row.before.unit != "%":
        return Finding(
            row.number, UNIT, f"{delta.text.strip()}: percentage points are a difference of two percentages; write %"
        )
    difference = Range(after.low - before.high, after.high - before.low)
    exact = row.before.kind == "count" and not row.before.places and not row.after.places
    if exact:
        difference = Range(row.after.value - row.before.value, row.after.value - row.before.value)
    if row.removed:
        difference = Range(-difference.high, -difference.low)
    elif wrong := _wrong_sign(difference, delta):
        return Finding(
            row.number, SIGN, f"from {row.before.text} to {row.after.text} is {wrong}, the card says {delta.text.strip()}"
        )
    if delta.unit == "%" and row.before.unit == "%":
        relative = _relative(row, before, difference)
        if relative and relative.meets(delta.range) and not difference.meets(delta.range):
            return None
        return Finding(
            row.number, UNIT, f"{delta.text.strip()}: the difference of two percentages is in percentage points (pp)"
        )
    if delta.unit not in ("pp", row.before.unit):
        relative = _relative(row, before, difference) if delta.unit == "%" else None
        if relative is None or relative.meets(delta.range):
            return None
        middle = (relative.low + relative.high) / 2
        return _differs(row, delta, f"about {shown(middle, 1)} %")
    if difference.meets(delta.range):
        return None
    return _differs(row, delta, f"{shown((difference.low + difference.high) / 2, delta.places)} {delta.unit}".strip())


def _differs(row: Row, delta: Quantity, found: str) -> Finding:
    text = f"from {row.before.text.strip()} to {row.after.text.strip()} is {found}, the card says {delta.text.strip()}"
    return Finding(row.number, VALUE, text)


def _wrong_sign(difference: Range, delta: Quantity) -> str | None:
    if difference.low > 0 > delta.value:
        return "an increase"
    return "a decrease" if difference.high < 0 < delta.value else None


def _relative(row: Row, before: Range, difference: Range) -> Range | None:
    """100 · (after − before) / before, over all values that the shown digits stand for."""
    if before.low <= 0:
        return None
    after = Range(difference.low + before.high, difference.high + before.low)
    if row.removed:
        return Range(100 * difference.low / before.high, 100 * difference.high / before.low)
    return Range(100 * (after.low / before.high - 1), 100 * (after.high / before.low - Decimal(1)))


def _headers(document: Document) -> Iterator[Finding]:
    message = "the header says %, the column holds percentage points (pp)"
    for table in document.tables:
        for column, title in enumerate(table.header):
            cells = [row.cells[column] for row in table.rows if column < len(row.cells)]
            if (
                "%" in title
                and "pp" not in title
                and any(each.unit == "pp" and each.signed for cell in cells for each in quantities(cell))
            ):
                yield Finding(table.number, UNIT, message)
    loose = [line for line in document.lines if not line.cells]
    for index, line in enumerate(loose):
        if not PERCENT_HEADER.search(line.text) or quantities(line.text)[-1:] and quantities(line.text)[-1].unit == "%":
            continue
        below = [other for other in loose[index + 1 : index + TABLE_LENGTH] if other.number - line.number <= TABLE_LENGTH]
        rows = next((i for i, other in enumerate(below) if other.number != line.number + i + 1), len(below))
        if any(each.unit == "pp" and each.signed for other in below[:rows] for each in quantities(other.text)[-1:]):
            yield Finding(line.number, UNIT, message)
