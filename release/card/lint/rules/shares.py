"""Parameters and bf16 bytes fall by the same share: two bytes are one parameter."""

from __future__ import annotations

import re
from collections.abc import Iterator

from release.card.lint.document import Document
from release.card.lint.finding import Finding
from release.card.lint.knowledge import Knowledge
from release.card.lint.rows import Row, comparing_rows

KIND = "share"
PARAMETERS = re.compile(r"\bparam", re.IGNORECASE)
HALF = re.compile(r"\b(?:bf16|fp16|f16|bfloat16|float16)\b", re.IGNORECASE)


def find(document: Document, _: Knowledge) -> Iterator[Finding]:
    """Two rows of a comparison, one of parameters and one of bf16 bytes, whose percentages contradict each other."""
    parameters, weights = half_precision_rows(document)
    if parameters is None or weights is None or parameters.delta is None or weights.delta is None:
        return
    one, other = parameters.delta, weights.delta
    if one.unit == other.unit == "%" and not one.range.meets(other.range):
        yield Finding(
            weights.number,
            KIND,
            f"bf16 takes two bytes a parameter, so both fall by one share; the card says {one.text.strip()} of parameters "
            f"(line {parameters.number}) and {other.text.strip()} of bytes",
        )


def half_precision_rows(document: Document) -> tuple[Row | None, Row | None]:
    """The row of parameters, and the row of bf16 or fp16 bytes."""
    rows = list(comparing_rows(document))
    parameters = next((row for row in rows if PARAMETERS.search(row.label) and row.before.kind == "parameters"), None)
    weights = next((row for row in rows if HALF.search(row.label) and row.before.kind == "bytes"), None)
    return parameters, weights
