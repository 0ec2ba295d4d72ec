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
    wholes = {each.whole for line in document.lines if _is_score(line.text) for each in fractions(line.text)}
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
        if abs(points[0].value) < 100 * detectable:
            text = (
                f"{points[0].text.strip()} of {total} questions, which can show {100 * detectable:.1f} pp (paired, 80 % power)"
            )
            named = [scores.get(str(each.value)) for each in quantities(line.text) if each.unit == "%"]
            spans = [wilson_interval(count.part, count.whole) for count in named if count][:2]
            yield Finding(line.number, KIND, f"{text}{_overlap(spans)}; say the test, or that no difference was detected")


def _is_score(text: str) -> bool:
    return any(each.unit == "%" for each in quantities(text))


def _overlap(spans: list[tuple[float, float]]) -> str:
    """Words for two intervals that overlap; nothing otherwise."""
    if len(spans) != 2 or spans[0][0] > spans[1][1] or spans[1][0] > spans[0][1]:  # noqa: PLR2004  # two scores
        return ""
    shown = " and ".join(f"{100 * low:.1f}–{100 * high:.1f} %" for low, high in spans)
    return f"; 95 % intervals {shown} overlap"
