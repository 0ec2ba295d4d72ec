"""Facts that a card states about its architecture, as `name: value` in lists and as rows of two cells."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from release.card.lint.document import Document
from release.card.lint.quantities import Fraction, Quantity, fractions, quantities

KEYS: Mapping[str, re.Pattern[str]] = {
    "layers": re.compile(r"(?:number of |decoder |hidden )?layers|num_hidden_layers", re.IGNORECASE),
    "hidden size": re.compile(r"hidden[ _](?:size|dim(?:ension)?)", re.IGNORECASE),
    "expert intermediate size": re.compile(r"(?:expert|moe)[ _]intermediate[ _]size", re.IGNORECASE),
    "experts per layer": re.compile(
        r"experts per layer|num_(?:local_)?experts|number of experts|routed experts", re.IGNORECASE
    ),
    "experts per token": re.compile(r"top-?k(?: routing)?|experts per token|num_experts_per_tok|top_k_experts", re.IGNORECASE),
    "vocabulary": re.compile(r"vocab(?:ulary)?(?:[ _]size)?", re.IGNORECASE),
    "context length": re.compile(r"context (?:length|window)|max_position_embeddings", re.IGNORECASE),
}
ENTRY = re.compile(r"^[\s•*\-–·]*(?P<key>[A-Za-z][\w \-]{2,40}?)\s*[:=]\s*(?P<value>.+)$")


RAW = re.compile(r"\braw\b", re.IGNORECASE)


@dataclass(frozen=True)
class Stated:
    """A fact where it stands."""

    number: int
    key: str
    value: Quantity


@dataclass(frozen=True)
class CardArchitecture:
    """What sizes of experts follow from."""

    layers: int
    hidden: int
    intermediate: int
    experts: int

    @property
    def down_projections(self) -> int:
        """Parameters of all experts' down projections, whose rows are as long as an expert is wide."""
        return self.layers * self.hidden * self.intermediate * self.experts


def stated_facts(document: Document) -> Iterator[Stated]:
    """Architecture facts of lists and two-column tables, in order; the first number behind the key counts."""
    pairs = [(line.number, line.cells[0], line.cells[1]) for line in document.lines if len(line.cells) == 2]  # noqa: PLR2004
    pairs += [
        (line.number, match["key"], match["value"])
        for line in document.lines
        if not line.cells and (match := ENTRY.match(line.text))
    ]
    for number, key, value in sorted(pairs):
        name = next((name for name, pattern in KEYS.items() if pattern.fullmatch(key.strip())), None)
        found = quantities(value)
        if name and found and value.strip().startswith(found[0].text.strip()):
            yield Stated(number, name, found[0])


def architecture_of(document: Document) -> CardArchitecture | None:
    """Layers, sizes and experts, when the card states all four."""
    known = {fact.key: int(fact.value.value) for fact in reversed(list(stated_facts(document)))}
    for line in document.lines:
        if "experts per layer" not in known and (match := re.search(r"num_(?:local_)?experts:?\s+(\d{1,5})\b", line.text)):
            known["experts per layer"] = int(match[1])
    try:
        return CardArchitecture(
            known["layers"], known["hidden size"], known["expert intermediate size"], known["experts per layer"]
        )
    except KeyError:
        return None


def raw_scores(document: Document) -> list[tuple[int, Fraction]]:
    """Line and counts of every score that is called raw: the first counts behind the word, in a line that is no table's row."""
    found = []
    for line in document.lines:
        match = None if line.cells else RAW.search(line.text)
        counts = [each for each in fractions(line.text) if match and each.start > match.end() and each.part <= each.whole]
        found += [(line.number, each) for each in counts[:1]]
    return found
