"""Words beside a number that are its sign: 1.52 pp better, a drop of 1.52 pp."""

from __future__ import annotations

import re
from dataclasses import replace

from release.card.lint.quantities import Quantity, quantities

UP = r"better|higher|above|up|gains?|gained|increases?|increased|improvements?|improves|improved|rises?|rose|ahead|beats"
DOWN = (
    r"worse|lower|below|down|loss(?:es)?|loses?|lost|decreases?|decreased|reductions?|drops?|dropped|falls?|fell|behind|short"
)
WORD = rf"(?:(?P<up>{UP})|(?P<down>{DOWN}))"
AFTER = re.compile(rf"\s*{WORD}\b", re.IGNORECASE)
BEFORE = re.compile(
    rf"(?<![\w-]){WORD}(?:\s+(?:by|of|is|was))?(?:\s+(?:about|only|just|some|another))?\s*:?\s*\(?\s*\Z", re.IGNORECASE
)
OTHER_SUBJECT = re.compile(
    r"\b(?:base|baseline|reference|unpruned|original|not|no|neither|without|never|if|unless|until|within|than)\b", re.IGNORECASE
)
"""Words before the number by which the sentence may speak of the other model, or of no difference."""
SENTENCE = re.compile(r"[.;!?](?=\s|\Z)|\|")
SIGNED = ("pp", "%")


def directed(text: str, each: Quantity) -> Quantity:
    """A number with the sign that a word beside it gives; the number itself where it has one, or no word tells."""
    if each.signed or each.unit not in SIGNED or not (found := direction(text, each)):
        return each
    return replace(each, value=each.value * found, signed=True)


def directed_quantities(text: str) -> list[Quantity]:
    """`quantities`, those in percentage points with the sign that words beside them give."""
    return [directed(text, each) if each.unit == "pp" else each for each in quantities(text)]


def direction(text: str, each: Quantity) -> int:
    """1 or −1 by the word behind a number or before it, 0 where there is none, or where another model may be meant."""
    start = max((match.end() for match in SENTENCE.finditer(text, 0, each.start)), default=0)
    if OTHER_SUBJECT.search(text, start, each.start):
        return 0
    found = AFTER.match(text, each.end) or BEFORE.search(text[start : each.start])
    return 0 if found is None else 1 if found["up"] else -1
