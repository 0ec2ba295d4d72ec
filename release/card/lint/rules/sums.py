"""Sums that do not add up: "128 raw + 5 patched = 159", and rows that say total."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

from release.card.lint.document import Document, Table
from release.card.lint.finding import Finding
from release.card.lint.knowledge import Knowledge
from release.card.lint.quantities import NUMBER, Quantity, Range, quantities, shown

KIND = "sum"
TERM = rf"(?:{NUMBER})(?![\w.,]*\d)[^\d+=\n]{{0,40}}"
EQUATION = re.compile(rf"(?<![\w.,/\-])(?P<terms>{TERM}(?:\+\s?{TERM}){{1,9}})=\s*(?P<total>{NUMBER})(?![\w.,]*\d)")
TOTAL = re.compile(r"^\W*(?:total|sum|all|overall|together)\b\W*$", re.IGNORECASE)
ADDITIVE = frozenset({"count", "bytes", "parameters"})


def find(document: Document, _: Knowledge) -> Iterator[Finding]:
    """Equations in lines, and last rows of tables that are called a total."""
    for line in document.lines:
        for match in EQUATION.finditer(line.text):
            terms = [each for part in match["terms"].split("+") for each in quantities(part)[:1]]
            total = quantities(match["total"])[0]
            if len(terms) > 1 and not _range(terms).meets(total.range):
                found = shown(sum((each.value for each in terms), Decimal(0)), total.places)
                added = " + ".join(each.text.strip() for each in terms)
                yield Finding(line.number, KIND, f"{added} is {found}, the card says {total.text}")
    for table in document.tables:
        yield from _columns(table)


def _columns(table: Table) -> Iterator[Finding]:
    if len(table.rows) < 3 or not TOTAL.match(table.rows[-1].cells[0]):  # noqa: PLR2004  # two rows and their total
        return
    *rows, last = table.rows
    for column in range(1, len(last.cells)):
        total = _alone(last.cells[column])
        parts = [_alone(row.cells[column]) for row in rows if column < len(row.cells)]
        terms = [each for each in parts if each is not None]
        if total is None or len(terms) != len(rows) or {each.unit for each in [total, *terms]} != {total.unit}:
            continue
        if total.kind in ADDITIVE and not _range(terms).meets(total.range):
            found = sum((each.value for each in terms), Decimal(0))
            yield Finding(
                last.number,
                KIND,
                f"the rows of column {table.header[column] or column + 1!r} add up to {shown(found, total.places)}"
                f"{' ' * bool(total.unit)}{total.unit}, the total says {total.text.strip()}",
            )


def _alone(cell: str) -> Quantity | None:
    found = quantities(cell)
    return found[0] if len(found) == 1 and found[0].text.strip() == cell.strip() else None


def _range(terms: list[Quantity]) -> Range:
    """Counts are exact; measured values carry the rounding of their digits."""
    low, high = Decimal(0), Decimal(0)
    for term in terms:
        exact = term.kind == "count" and not term.places
        low += term.value if exact else term.range.low
        high += term.value if exact else term.range.high
    return Range(low, high)
