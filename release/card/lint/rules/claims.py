"""Numbers that no claim shows; only where the claims are known."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

from release.card.lint.directions import directed
from release.card.lint.document import Document, Line
from release.card.lint.finding import Finding
from release.card.lint.knowledge import Knowledge
from release.card.lint.quantities import NUMBER, Quantity, quantities
from release.card.lint.rules.deltas import SIGN
from release.card.prose import MEASURE, WORDS

KIND = "number without claim"
RANGE = re.compile(r"(?<=\d)\s?–\s?(?=\d)")
SCORES = ("%", "pp")
"""Units of what is no name in backquotes, and no code."""
JOINED = re.compile(
    rf"(?<![\w.\-−–/])(?:\.\d+|(?:{NUMBER})(?:-(?:{NUMBER})(?![\w\-])|-?(?:{MEASURE})\b))(?![\w-])",
    re.IGNORECASE,
)
"""Numbers that are none of `quantities`: .97, 97-percent, 3-5, 20-fold."""
DIGITS = re.compile(rf"\.\d+|{NUMBER}")


def find(document: Document, knowledge: Knowledge) -> Iterator[Finding]:
    """Numbers of text and tables; names in backquotes, code, addresses and the front matter state nothing.

    A number with a sign must have it in its claim.  Percentages and points count in backquotes and blocks of text too.
    """
    if knowledge.claims is None:
        return
    known: set[tuple[Decimal, str]] = set()
    unsigned: set[tuple[Decimal, str]] = set()
    for claim in knowledge.claims.values():
        known |= {(each.value, each.unit) for each in _quantities(claim["shown"])}
        unsigned |= {(each.value, each.unit) for each in _quantities(claim["shown"]) if not each.signed}
    sizes = {(abs(value), unit) for value, unit in known}
    values = {value for value, _ in sizes} | {
        number for claim in knowledge.claims.values() for number in _joined(claim["shown"])
    }
    for number, text in _texts(document):
        for each in _quantities(text):
            if (each.value, each.unit) not in (known if each.signed and each.value else sizes):
                yield Finding(number, KIND, f"{each.text.strip()} is shown by no claim")
            elif each.unit == "pp" and not each.signed and (each.value, each.unit) not in unsigned:
                yield from _wrong_direction(number, text, each, known)
        for match in JOINED.finditer(text):
            if not values.issuperset(_joined(match[0])):
                yield Finding(number, KIND, f"{match[0]} is shown by no claim")


def _wrong_direction(number: int, text: str, each: Quantity, known: set[tuple[Decimal, str]]) -> Iterator[Finding]:
    """A difference that a claim shows with one sign, told in words with the other."""
    found = directed(text, each)
    if found.signed and found.value and (found.value, found.unit) not in known:
        sign = "+" if found.value < 0 else "−"
        words = text[each.start : each.end + 16].split("|", maxsplit=1)[0].strip()
        yield Finding(number, SIGN, f"{words}: the claims have {sign}{abs(found.value)} pp")


def _joined(text: str) -> set[Decimal]:
    return {Decimal(number.replace(",", "")) for match in JOINED.findall(text) for number in DIGITS.findall(match)}


def _texts(document: Document) -> Iterator[tuple[int, str]]:
    """Each line of text by its number, and of blocks of text what is a score."""
    for line in document.lines:
        yield line.number, _without_names(line)
    for block in document.code:
        if block.language.lower() in WORDS:
            for number, text in enumerate(block.lines, block.number):
                yield number, _scores(text)


def _quantities(text: str) -> list[Quantity]:
    return quantities(RANGE.sub(" – ", text))


def _scores(text: str) -> str:
    """The numbers of a text that are scores, each apart from what stands around it."""
    return " ; ".join(each.text for each in _quantities(text) if each.unit in SCORES)


def _without_names(line: Line) -> str:
    """The text without what stands in backquotes, unless that is nothing but a number; its scores stay."""
    text = line.text
    for name in line.names:
        if not any(each.text.strip() == name.strip() for each in quantities(name)):
            text = text.replace(name, f" {_scores(name)} ", 1)
    return text
