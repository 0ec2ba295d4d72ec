"""GB that are GiB: by the parameters of bf16 weights, by a pair of both units, or by the claims."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from itertools import pairwise
from typing import Any

from release.card.lint.document import Document
from release.card.lint.finding import Finding
from release.card.lint.knowledge import Knowledge
from release.card.lint.quantities import BYTES, Quantity, Range, quantities, shown
from release.card.lint.rules.shares import HALF, PARAMETERS, half_precision_rows

KIND = "GB or GiB"
BINARY = {"kB": "KiB", "KB": "KiB", "MB": "MiB", "GB": "GiB", "TB": "TiB"}
DECIMAL = {binary: unit for unit, binary in BINARY.items() if unit != "KB"}
SLACK = Decimal("0.01")
"""Scales, biases and buffers in another precision; GB and GiB differ by seven times that."""
MOST_COUNTS = 50
"""Different parameter counts of a card that are compared with its sizes."""
QUANT = re.compile(r"(?<![A-Za-z])I?Q\d")


def find(document: Document, knowledge: Knowledge) -> Iterator[Finding]:
    """See the module."""
    seen: set[tuple[int, str]] = set()
    for finding in (*_columns(document), *_half(document), *_pairs(document), *_claimed(document, knowledge)):
        key = (finding.line, finding.message.partition(" ")[0])
        if key not in seen:
            seen.add(key)
            yield finding


def parameters_of(document: Document) -> list[Quantity]:
    """Parameter counts that a card names: in its title or beside the word."""
    found = [
        each
        for index, line in enumerate(document.lines)
        if index == 0 or line.heading or PARAMETERS.search(line.text)
        for each in quantities(line.text)
        if each.kind == "parameters" and not each.signed and each.unit != "T"
    ]
    return list({(each.value, each.unit): each for each in found}.values())[:MOST_COUNTS]


def _weights(parameters: Quantity) -> Range:
    """Bytes of so many parameters at two bytes each."""
    exact = parameters.scaled.times(2)
    return Range(exact.low * (1 - SLACK), exact.high * (1 + SLACK))


def _columns(document: Document) -> Iterator[Finding]:
    """A row of bf16 sizes under a row of parameters, column by column."""
    parameters, weights = half_precision_rows(document)
    if parameters is None or weights is None:
        return
    for count, size in ((parameters.before, weights.before), (parameters.after, weights.after)):
        if not _weights(count).meets(size.scaled):
            yield _finding(weights.number, size, count)


def _half(document: Document) -> Iterator[Finding]:
    counts = parameters_of(document)
    for line in document.lines:
        if not counts or not HALF.search(line.text) or QUANT.search(line.text) or not line.text.strip():
            continue
        for size in quantities(line.text):
            if size.unit not in BINARY or size.signed or any(_weights(count).meets(size.scaled) for count in counts):
                continue
            if (count := next((each for each in counts if _weights(each).meets(_as_binary(size))), None)) is not None:
                yield _finding(line.number, size, count)


def _finding(number: int, size: Quantity, count: Quantity) -> Finding:
    bytes_ = count.value * count.scale * 2
    true = f"{shown(bytes_ / size.scale, 1)} {size.unit}, which is {shown(bytes_ / BYTES[_binary(size)], 1)} {_binary(size)}"
    verdict = f" — the number is one of {_binary(size)}" if _weights(count).meets(_as_binary(size)) else ""
    return Finding(number, KIND, f"{size.text.strip()}: {count.text.strip()} parameters in bf16 are {true}{verdict}")


def _binary(size: Quantity) -> str:
    return BINARY.get(size.unit, size.unit)


def _as_binary(size: Quantity) -> Range:
    return size.range.times(BYTES[_binary(size)])


def _pairs(document: Document) -> Iterator[Finding]:
    """44.83 GB (41.75 GiB), in either order: the two must be the same bytes."""
    for line in document.lines:
        values = quantities(line.text)
        for one, other in pairwise(values):
            together = re.fullmatch(r"\s?[(/=,]\s?", line.text[one.end : other.start])
            units = BINARY.get(one.unit) == other.unit or BINARY.get(other.unit) == one.unit
            if together and units and not one.scaled.meets(other.scaled):
                true = f"{shown(one.value * one.scale / other.scale, other.places)} {other.unit}"
                yield Finding(line.number, KIND, f"{one.text.strip()} is {true}, the card says {other.text.strip()}")


def _claimed(document: Document, knowledge: Knowledge) -> Iterator[Finding]:
    """A size that no claim has as it stands, and one has under the other unit."""
    claimed = [Decimal(str(claim["value"])) for claim in (knowledge.claims or {}).values() if _is_bytes(claim)]
    for line in document.lines:
        for size in quantities(line.text) if claimed else ():
            if (size.unit not in BINARY and size.unit not in DECIMAL) or _any(claimed, size.scaled):
                continue
            other = BINARY.get(size.unit) or DECIMAL[size.unit]
            if _any(claimed, size.range.times(BYTES[other])):
                yield Finding(line.number, KIND, f"{size.text.strip()}: the claims know this number as {other}")


def _is_bytes(claim: Mapping[str, Any]) -> bool:
    return claim["unit"] == "bytes" and isinstance(claim.get("value"), (int, float))


def _any(values: list[Decimal], range_: Range) -> bool:
    return any(range_.low <= value <= range_.high for value in values)
