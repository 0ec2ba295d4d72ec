"""The same number stated twice in running text, and differently: scores, sizes of quants, experts, layers, parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from release.card.lint.document import Document, Line
from release.card.lint.facts import stated_facts
from release.card.lint.finding import Finding
from release.card.lint.knowledge import Knowledge
from release.card.lint.quantities import Quantity, fractions, quantities
from release.card.lint.rows import comparing_rows
from release.card.lint.rules.calibration import BENCHMARK
from release.card.lint.rules.percentages import FEWEST
from release.card.lint.rules.repeated import KIND, OTHER, TOTAL
from release.card.lint.rules.shares import PARAMETERS

COUNT = r"(?<![\w.,/\-−+])\d{1,5}(?![\w.,/]?\d)"
EXPERTS = r"(?:routed\s+)?experts\b"
KEPT = re.compile(
    rf"\b(?:keeps?|kept|retains?|retained)\s+(?:the\s+)?(?P<a>{COUNT})(?:\s+of\s+(?:the\s+)?\d{{1,5}})?\s+{EXPERTS}"
    rf"|(?P<b>{COUNT})(?:\s+of\s+(?:the\s+)?\d{{1,5}})?\s+{EXPERTS}(?:\s+per(?:\s+\w+)?\s+layer)?(?:\s+by\s+\w+)?\s+"
    r"(?:are\s+|were\s+)?(?:kept|retained|remain|survive)"
    rf"|\bto\s+(?P<c>{COUNT})\s+{EXPERTS}|(?P<d>{COUNT})\s+of\s+(?:the\s+)?\d{{1,5}}\s+{EXPERTS}\s+per\s+(?:\w+\s+)?layer",
    re.IGNORECASE,
)
ROUTED = re.compile(r"\b(?:rout(?:es|ing)|activ\w+|select\w*|token|top)\b", re.IGNORECASE)
"""Words of a line about the experts that a token gets."""
LAYERS = re.compile(
    rf"\b(?:all|each\s+of|across|over|has|have|with|of)\s+(?:the\s+|its\s+)?(?P<a>{COUNT})\s+(?:MoE\s+)?layers\b"
    rf"|(?P<b>{COUNT})\s+(?:transformer|decoder|hidden)\s+layers\b",
    re.IGNORECASE,
)
SCORED = re.compile(r"\b(?:scor(?:es?|ed|ing)|accuracy)\b[^.\d%|]{0,30}\Z", re.IGNORECASE)
QUANT = re.compile(r"(?<![\w-])I?Q[2-8]_\w+")
NOT_THE_FILE = re.compile(
    r"\b(?:V?RAM|memory|GPU|shards?|parts?|needs?|about|around|roughly|at (?:least|most))\b|[~≈<>±]", re.IGNORECASE
)
TITLE = re.compile(r"\(\s*[^()]{0,20}\)")


def find(document: Document, _: Knowledge) -> Iterator[Finding]:
    """Only lines that speak of this model alone, give one such number, and say what it is of."""
    yield from _counts(document, "experts kept", KEPT, ROUTED)
    yield from _counts(document, "layers", LAYERS, None)
    yield from _scores(document)
    yield from _sizes(document)
    yield from _parameters(document)


@dataclass(frozen=True)
class _Said:
    number: int
    value: int


def _counts(document: Document, what: str, pattern: re.Pattern[str], never: re.Pattern[str] | None) -> Iterator[Finding]:
    """Counts that a model has one of."""
    first = next((_Said(each.number, int(each.value.value)) for each in stated_facts(document) if each.key == what), None)
    for line in document.lines:
        if line.cells or OTHER.search(_own(line)) or (never and never.search(line.text)):
            continue
        found = {int(next(filter(None, match.groups()))) for match in pattern.finditer(line.text)}
        if len(found) != 1:
            continue
        said = _Said(line.number, found.pop())
        first = first or said
        if said.value != first.value:
            yield Finding(line.number, KIND, f"{what}: {said.value} here, and {first.value} in line {first.number}")


def _own(line: Line) -> str:
    """The line without "of 128" and "128 to", which a variant's own sentence says of its base."""
    return re.sub(r"\bof (?:the )?\d[\d,]*|\bfrom (?:the )?\d[\d,]*(?= to\b)", " ", line.text, flags=re.IGNORECASE)


def _scores(document: Document) -> Iterator[Finding]:
    """A score in a sentence that is neither the share of any counts nor in any table; of a card about one exam alone."""
    named = [match[0].lower() for line in document.lines for match in BENCHMARK.finditer(line.text)]
    if len({re.split(r"[ _-]", name)[0] for name in named}) > 1:
        return
    counts = [(line.number, each) for line in document.lines for each in fractions(line.text) if _is_score(line, each.whole)]
    if not counts:
        return
    number, count = counts[0]
    tabled = [each for line in document.lines if line.cells for each in quantities(line.text) if each.unit == "%"]
    for line in document.lines:
        if line.cells or fractions(line.text) or OTHER.search(line.text):
            continue
        percents = [each for each in quantities(line.text) if each.unit == "%" and not each.signed]
        if len(percents) != 1 or not SCORED.search(line.text[: percents[0].start]):
            continue
        said = percents[0]
        if any(said.shows(each.percent) for _, each in counts) or any(said.range.meets(each.range) for each in tabled):
            continue
        share = f"{count} is {count.percent:.{said.places}f} %"
        yield Finding(line.number, KIND, f"a score of {said.text.strip()} here, and {share} in line {number}")


def _is_score(line: Line, whole: int) -> bool:
    return whole >= FEWEST and any(each.unit == "%" for each in quantities(line.text))


def _sizes(document: Document) -> Iterator[Finding]:
    """The file of one quant with two sizes."""
    comparing = {row.number for row in comparing_rows(document)}
    first: dict[str, tuple[int, Quantity]] = {}
    for line in document.lines:
        names = set(QUANT.findall(line.text))
        if len(names) != 1 or line.number in comparing or OTHER.search(line.text) or NOT_THE_FILE.search(line.text):
            continue
        sizes = [each for each in quantities(line.text) if each.kind == "bytes" and not each.signed]
        if not sizes or any(not each.scaled.meets(sizes[0].scaled) for each in sizes):
            continue
        name = names.pop()
        number, known = first.setdefault(name, (line.number, sizes[0]))
        if not known.scaled.meets(sizes[0].scaled):
            yield Finding(
                line.number, KIND, f"{name} is {sizes[0].text.strip()} here, and {known.text.strip()} in line {number}"
            )


def _parameters(document: Document) -> Iterator[Finding]:
    """The count in the title's parentheses against the rows and lines that give all parameters."""
    title = next(iter(document.lines), None)
    counts = [each for part in TITLE.findall(title.text) for each in quantities(part[1:-1])] if title else []
    counts = [each for each in counts if each.kind == "parameters" and not each.signed]
    if title is None or len(counts) != 1:
        return
    stated = [
        (row.number, each)
        for row in comparing_rows(document)
        if PARAMETERS.search(row.label)
        for each in (row.before, row.after)
    ]
    stated += [
        (line.number, each)
        for line in document.lines
        if (
            TOTAL.search(line.text)
            if not line.cells
            else re.fullmatch(r"(?:total )?param\w*", line.cells[0].strip(), re.IGNORECASE)
        )
        for each in quantities(line.text)
    ]
    stated = [(number, each) for number, each in stated if each.kind == "parameters" and not each.signed]
    if stated and not any(each.scaled.meets(counts[0].scaled) for _, each in stated):
        number, known = stated[-1]
        text = f"{known.text.strip()} parameters here, and {counts[0].text.strip()} in the title (line {title.number})"
        yield Finding(number, KIND, text)
