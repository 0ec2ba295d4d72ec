"""A handful of lucky answers told as a signal."""

from __future__ import annotations

import re
from collections.abc import Iterator

from release.card.lint.document import Document
from release.card.lint.finding import Finding
from release.card.lint.knowledge import Knowledge
from release.card.lint.quantities import fractions
from release.evaluation.stats import chance_tail

KIND = "luck"
EXPECTED = re.compile(r"expect\w*\s+(?:\w+\s+){0,2}?(?P<count>\d+(?:\.\d+)?)(?!\d|\s?%)", re.IGNORECASE)
SIGNAL = re.compile(r"\bsignal\b|\bsignificant|above chance|better than (?:chance|random|guess)|not luck", re.IGNORECASE)
LEVEL = 0.05
MOST = 10_000


def find(document: Document, _: Knowledge) -> Iterator[Finding]:
    """A line that gives k of n, what guessing gives, and calls the difference real: the chance of k or more by guessing."""
    for line in document.lines:
        expected = EXPECTED.search(line.text)
        counts = [each for each in fractions(line.text) if expected and each.end <= expected.start()]
        if expected is None or not counts or not SIGNAL.search(line.text):
            continue
        count, luck = counts[-1], float(expected["count"])
        if not 0 < luck < count.whole <= MOST or count.part > count.whole:
            continue
        tail = chance_tail(count.part, count.whole, luck / count.whole)
        if tail >= LEVEL:
            text = f"guessing at {100 * luck / count.whole:.0f} % gives {count.part} or more of {count.whole}"
            yield Finding(line.number, KIND, f"{text} with probability {tail:.2g}; that is no signal")
