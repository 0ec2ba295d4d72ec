"""The same number given twice, and differently."""

from __future__ import annotations

import re
from collections.abc import Iterator

from release.card.lint.document import Document
from release.card.lint.facts import Stated, raw_scores, stated_facts
from release.card.lint.finding import Finding
from release.card.lint.knowledge import Knowledge
from release.card.lint.quantities import Quantity, quantities

KIND = "given twice"
SHARDS = re.compile(r"(?<![\w./\-])(?P<count>\d{1,5})\s+(?:safetensors\s+)?shards?\b", re.IGNORECASE)
NUMBERED = re.compile(r"-of-(?P<count>\d{5})(?!\d)")
RAW_COUNT = re.compile(
    r"(?<![\w./,\-+])(?P<count>\d{1,6})\s+(?:correct|right)\s+(?:\w+\s+){0,2}raw\b|\braw\b[^.\d]{0,30}?(?<![\w./,\-])(?P<behind>\d{1,6})\s+(?:correct|right)\b"
)

TOTAL = re.compile(
    r"\bparam(?:eter)?s?\s+(?:in\s+total|altogether|overall)\b|\btotal\s+(?:of\s+)?(?:[\d.]{1,12}\s?[MB]\s+)?param|\bparam\w*\s+\(total\)",
    re.IGNORECASE,
)
OTHER = re.compile(
    r"\b(?:base|original|reference|teacher|unpruned|before|instead|active|activated|than|variants?|siblings?|v\d+|\d+e)\b"
    r"|\b(?:of|from) (?:the )?(?:full|\d)",
    re.IGNORECASE,
)
"""Words of a line that speaks of another model too, or of the parameters that one token uses."""


def find(document: Document, _: Knowledge) -> Iterator[Finding]:
    """Architecture facts, the number of shards, the raw score, and all parameters of the model."""
    first: dict[str, Stated] = {}
    for fact in stated_facts(document):
        known = first.setdefault(fact.key, fact)
        if not known.value.scaled.meets(fact.value.scaled):
            yield Finding(
                fact.number,
                KIND,
                f"{fact.key} is {fact.value.text.strip()} here and {known.value.text.strip()} in line {known.number}",
            )
    yield from _shards(document)
    yield from _raw(document)
    yield from _parameters(document)


def _shards(document: Document) -> Iterator[Finding]:
    numbered = {int(match["count"]) for line in document.lines for match in NUMBERED.finditer(line.text)}
    for line in document.lines:
        for match in SHARDS.finditer(line.text):
            if len(numbered) == 1 and int(match["count"]) not in numbered:
                yield Finding(
                    line.number, KIND, f"{match['count']} shards here, and files are named of {numbered.copy().pop()} shards"
                )


def _raw(document: Document) -> Iterator[Finding]:
    """A score called raw as k/n in one place, and "j correct from raw" in another."""
    scores = {(number, count.part, count.whole) for number, count in raw_scores(document)}
    if len({(part, whole) for _, part, whole in scores}) != 1:
        return
    where, part, whole = min(scores)
    for line in document.lines:
        for match in RAW_COUNT.finditer(line.text):
            count = int(match["count"] or match["behind"])
            if count != part and line.number != where:
                yield Finding(line.number, KIND, f"{count} correct from the raw run here, {part}/{whole} in line {where}")


def _parameters(document: Document) -> Iterator[Finding]:
    """22.4 B parameters in total, and 22.9 B: lines that give one count, say that it is all, and speak of no other model."""
    first: tuple[int, Quantity] | None = None
    for line in document.lines:
        if line.cells or not TOTAL.search(line.text) or OTHER.search(line.text):
            continue
        counts = [each for each in quantities(line.text) if each.kind == "parameters" and not each.signed]
        if len(counts) != 1:
            continue
        number, known = first = first or (line.number, counts[0])
        if not known.scaled.meets(counts[0].scaled):
            text = f"{counts[0].text.strip()} parameters in total here, and {known.text.strip()} in line {number}"
            yield Finding(line.number, KIND, text)
