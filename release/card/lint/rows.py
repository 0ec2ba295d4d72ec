"""Rows that compare: a value before, a value after, and their difference; also in text whose table markup was lost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from release.card.lint.document import Document, Line
from release.card.lint.quantities import Quantity, quantities

DELTA = re.compile(r"delta|[Δ∆]|diff|change|removed|saved|dropped|reduction|\bvs\b", re.IGNORECASE)
REMOVED = re.compile(r"removed|saved|dropped|reduction", re.IGNORECASE)
SEPARATOR = re.compile(r"[\s|→]*")


@dataclass(frozen=True)
class Row:
    """What a row compares.  `removed`: its difference is before − after, without a sign."""

    number: int
    label: str
    before: Quantity
    after: Quantity
    delta: Quantity | None
    removed: bool = False


def comparing_rows(document: Document) -> Iterator[Row]:
    """Rows of tables, and lines, that hold two values of one kind side by side, with their difference if it is there."""
    in_tables = {row.number for table in document.tables for row in table.rows}
    for table in document.tables:
        deltas = [column for column, title in enumerate(table.header) if DELTA.search(title)]
        for row in table.rows:
            yield from _table_rows(row, table.header, deltas)
    for line in document.lines:
        if line.number not in in_tables and (found := _loose_row(line)) is not None:
            yield found


def _table_rows(row: Line, header: tuple[str, ...], deltas: list[int]) -> Iterator[Row]:
    """One for each column of differences, and one without when there is none."""
    values = [(column, found[0]) for column, cell in enumerate(row.cells[1:], 1) if (found := quantities(cell))]
    plain = [value for column, value in values if column not in deltas and not value.signed]
    if len(header) != 3 + len(deltas) or len(plain) != 2 or plain[0].kind != plain[1].kind:  # noqa: PLR2004
        return
    changes = [(column, value) for column, value in values if column in deltas]
    for column, delta in changes:
        removed = not delta.signed and bool(REMOVED.search(header[column]))
        yield Row(row.number, row.cells[0], plain[0], plain[1], delta, removed)
    if not changes:
        yield Row(row.number, row.cells[0], plain[0], plain[1], None)


def _loose_row(line: Line) -> Row | None:
    values = quantities(line.text)
    delta = values[-1] if values and values[-1].signed else None
    pair = values[-3:-1] if delta else values[-2:]
    if len(pair) != 2 or pair[0].kind != pair[1].kind or pair[0].signed or pair[1].signed:  # noqa: PLR2004  # before and after
        return None
    before, after = pair
    gaps = [line.text[before.end : after.start], *([line.text[after.end : delta.start]] if delta else [])]
    rest = line.text[(delta or after).end :].strip()
    if not all(SEPARATOR.fullmatch(gap) and gap for gap in gaps) or (rest and not re.fullmatch(r"/\w+", rest)):
        return None
    label = line.text[: before.start].strip()
    return Row(line.number, label, before, after, delta) if label else None
