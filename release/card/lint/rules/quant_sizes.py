"""Sizes of quantized files that cannot be: below what the type takes for so many parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

from release.card.lint.document import Document
from release.card.lint.facts import CardArchitecture, architecture_of
from release.card.lint.finding import Finding
from release.card.lint.knowledge import Knowledge
from release.card.lint.quantities import Quantity, quantities, shown
from release.card.lint.rows import Row, comparing_rows
from release.card.lint.rules.gigabytes import parameters_of
from release.card.lint.rules.shares import PARAMETERS
from release.gguf.types import BY_NAME, GgmlType

KIND = "quant size"
QUANT = re.compile(r"(?<![\w-])(?P<type>Q[2-8]_(?:K|0|1))(?:_[SMLX]+)?(?![A-Za-z0-9])")
OUTSIDE = Decimal("0.95")
"""At least this share of a model's parameters is in its GGUF; towers for pictures and sound are files of their own."""
SUPER_BLOCK = 256
FALLBACK = {"Q2_K": "IQ4_NL", "Q3_K": "IQ4_NL", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""What llama-quantize takes when rows are no multiple of 256."""


def find(document: Document, _: Knowledge) -> Iterator[Finding]:
    """Rows of sizes against the row of parameters, and single sizes against the card's one parameter count."""
    rows, known = list(comparing_rows(document)), architecture_of(document)
    counts = next((row for row in rows if PARAMETERS.search(row.label) and row.before.kind == "parameters"), None)
    for row in rows:
        quant = QUANT.search(row.label)
        if quant and counts and row.before.kind == "bytes":
            yield from _compared(known, row, counts, quant["type"])
    stated = parameters_of(document)
    if len(stated) != 1:
        return
    for line in document.lines:
        quant, sizes = QUANT.search(line.text), [each for each in quantities(line.text) if each.kind == "bytes"]
        if quant and len(sizes) == 1 and len(QUANT.findall(line.text)) == 1 and line.number not in {row.number for row in rows}:
            yield from _single(known, line.number, sizes[0], stated[0], quant["type"], pruned=True)


def _compared(known: CardArchitecture | None, row: Row, counts: Row, quant: str) -> Iterator[Finding]:
    same = row.before.value == row.after.value and row.before.unit == row.after.unit
    pruned = not counts.before.scaled.meets(counts.after.scaled)
    if same and pruned and not row.before.places:
        text = f"{row.before.text.strip()} for both {counts.before.text.strip()} and {counts.after.text.strip()} parameters"
        yield Finding(row.number, KIND, f"{quant}: {text}; a file of one type grows with its parameters")
    yield from _single(known, row.number, row.before, counts.before, quant, pruned=False)
    yield from _single(known, row.number, row.after, counts.after, quant, pruned=True)


def _single(
    known: CardArchitecture | None, number: int, size: Quantity, count: Quantity, quant: str, *, pruned: bool
) -> Iterator[Finding]:
    """The smallest file: every tensor at the type's own bits, and those whose rows do not fit at the bits of its fallback."""
    kind = BY_NAME.get(quant)
    if kind is None:
        return
    least = count.scaled.low * OUTSIDE * _bits(kind) / 8
    why = ""
    if pruned and quant in FALLBACK and known is not None and known.intermediate % SUPER_BLOCK:
        extra = known.down_projections * (_bits(BY_NAME[FALLBACK[quant]]) - _bits(kind)) / 8
        least += max(extra, Decimal(0))
        why = f"; rows of {known.intermediate} are no multiple of {SUPER_BLOCK} and fall back to {FALLBACK[quant]}"
    if size.scaled.high < least:
        text = f"{count.text.strip()} parameters as {quant} ({shown(_bits(kind), 4)} bits) take at least "
        yield Finding(number, KIND, f"{text}{shown(least / size.scale, 1)} {size.unit}, the card says {size.text.strip()}{why}")


def _bits(kind: GgmlType) -> Decimal:
    return Decimal(8 * kind.block_bytes) / kind.block_size
