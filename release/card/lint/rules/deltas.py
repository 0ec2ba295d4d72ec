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
CHANGE = r"(?:vs|change|diff|delta|Δ)"
PERCENT_HEADER = re.compile(rf"(?<![\d\s])\s%(?=\s*{CHANGE})|^%\s*{CHANGE}|[Δ∆]\s?%", re.IGNORECASE)
TABLE_LENGTH = 30


def find(document: Document, _: Knowledge) -> Iterator[Finding]:
    """Each comparing row, and headers that promise % over cells in percentage points."""
    for row in comparing_rows(document):
        if row.delta is not None and (finding := _row(row, row.delta)) is not None:
            yield finding
    yield from _headers(document)


def _row(row: Row, delta: Quantity) -> Finding | None:
    said = delta.text.strip()
    if delta.unit == "pp" and row.before.unit != "%":
        return Finding(row.number, UNIT, f"{said}: percentage points are a difference of two percentages; write %")
    difference = _difference(row)
    if not row.removed and (wrong := _wrong_sign(difference, delta)):
        return Finding(row.number, SIGN, f"from {row.before.text} to {row.after.text} is {wrong}, the card says {said}")
    relative = _relative(row) if delta.unit == "%" else None
    if relative is not None and relative.meets(delta.range):
        return None
    if delta.unit == row.before.unit == "%":
        return Finding(row.number, UNIT, f"{said}: the difference of two percentages is in percentage points (pp)")
    return _value(row, delta, difference, relative)


def _value(row: Row, delta: Quantity, difference: Range, relative: Range | None) -> Finding | None:
    if relative is not None:
        found = f"about {shown((relative.low + relative.high) / 2, 1)} %"
    elif delta.unit in ("pp", row.before.unit) and not difference.meets(delta.range):
        found = f"{shown((difference.low + difference.high) / 2, delta.places)} {delta.unit}".strip()
    else:
        return None
    text = f"from {row.before.text.strip()} to {row.after.text.strip()} is {found}, the card says {delta.text.strip()}"
    return Finding(row.number, VALUE, text)


def _difference(row: Row) -> Range:
    """After − before (before − after of what is said to be removed), over all values that the shown digits stand for."""
    if row.before.kind == "count" and not row.before.places and not row.after.places:
        low = high = row.after.value - row.before.value
    else:
        low, high = row.after.range.low - row.before.range.high, row.after.range.high - row.before.range.low
    return Range(-high, -low) if row.removed else Range(low, high)


def _relative(row: Row) -> Range | None:
    """100 · (after / before − 1), or what is missing of 100, over all values that the shown digits stand for."""
    before, after = row.before.scaled, row.after.scaled
    if before.low <= 0:
        return None
    low, high = 100 * (after.low / before.high - 1), 100 * (after.high / before.low - Decimal(1))
    return Range(-high, -low) if row.removed else Range(low, high)


def _wrong_sign(difference: Range, delta: Quantity) -> str | None:
    if difference.low > 0 > delta.value:
        return "an increase"
    return "a decrease" if difference.high < 0 < delta.value else None


def _headers(document: Document) -> Iterator[Finding]:
    message = "the header says %, the column holds percentage points (pp)"
    for table in document.tables:
        for column, title in enumerate(table.header):
            cells = [row.cells[column] for row in table.rows if column < len(row.cells)]
            points = any(each.unit == "pp" and each.signed for cell in cells for each in quantities(cell))
            if points and "%" in title and "pp" not in title:
                yield Finding(table.number, UNIT, message)
    loose = [line for line in document.lines if not line.cells]
    for index, line in enumerate(loose):
        if not PERCENT_HEADER.search(line.text) or any(each.unit == "%" for each in quantities(line.text)):
            continue
        below = [other for other in loose[index + 1 : index + TABLE_LENGTH] if other.number - line.number <= TABLE_LENGTH]
        rows = next((i for i, other in enumerate(below) if other.number != line.number + i + 1), len(below))
        if any(each.unit == "pp" and each.signed for other in below[:rows] for each in quantities(other.text)[-1:]):
            yield Finding(line.number, UNIT, message)
