"""Differences told as if they were findings, which so few questions cannot show."""

from __future__ import annotations

import re
from collections.abc import Iterator

from release.card.lint.document import Document
from release.card.lint.finding import Finding
from release.card.lint.knowledge import Knowledge
from release.card.lint.quantities import fractions, quantities
from release.card.lint.rules.differences import scores_by_percent
from release.evaluation.stats import minimum_detectable_difference, wilson_interval

KIND = "untested difference"
WORDS = re.compile(
    r"\b(?:beats?|better|worse|outperform\w*|surpass\w*|costs?|loses?|lost|gains?|improve\w*|regress\w*)\b", re.IGNORECASE
)
TESTED = re.compile(
    r"\bp\s?[=<≈]|confidence|interval|\bCI\b|standard error|no detectable|not significant|McNemar", re.IGNORECASE
)
DISCORDANCE = 0.1
"""Share of questions that two similar models answer differently."""


def find(document: Document, _: Knowledge) -> Iterator[Finding]:
    """Sentences with a comparing word and a difference in pp, on a card whose scores are all of one number of questions."""
    wholes = {each.whole for line in document.lines for each in fractions(line.text) if _is_score(line.text)}
    scores = scores_by_percent(document)
    sizes = {count.whole for count in scores.values()} or wholes
    if len(sizes) != 1:
        return
    total = next(iter(sizes))
    detectable = minimum_detectable_difference(total, DISCORDANCE)
    for line in document.lines:
        points = [each for each in quantities(line.text) if each.unit == "pp"]
        if line.cells or not points or not WORDS.search(line.text) or TESTED.search(line.text) or detectable is None:
            continue
        difference = abs(points[0].value)
        if difference < 100 * detectable:  # type: ignore[operator]  # Decimal compares with float exactly
            text = (
                f"{points[0].text.strip()} of {total} questions, which can show {100 * detectable:.1f} pp (paired, 80 % power)"
            )
            named = [
                scores[str(each.value)] for each in quantities(line.text) if each.unit == "%" and str(each.value) in scores
            ]
            spans = [wilson_interval(count.part, count.whole) for count in named[:2]]
            shown = " and ".join(f"{100 * low:.1f}–{100 * high:.1f} %" for low, high in spans)
            overlap = f"; 95 % intervals {shown} overlap" if len(spans) == 2 and _overlap(*spans) else ""  # noqa: PLR2004
            yield Finding(line.number, KIND, f"{text}{overlap}; say the test, or that no difference was detected")


def _is_score(text: str) -> bool:
    return any(each.unit == "%" for each in quantities(text))


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]
