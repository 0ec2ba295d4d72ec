"""Outcome breakdowns that do not sum to the number of questions."""

from __future__ import annotations

import re
from collections.abc import Iterator

from release.card.lint.document import Document, Line
from release.card.lint.finding import Finding
from release.card.lint.knowledge import Knowledge
from release.card.lint.quantities import Fraction, fractions

KIND = "breakdown"
CLASSES = ("correct", "right", "wrong", "incorrect", "invalid", "valid", "empty", "truncated", "unparsable", "failed")
COUNTED = re.compile(rf"(?<![\w./,\-−])(?P<count>\d[\d,]*)\s+(?:\w+\s)?(?P<name>{'|'.join(CLASSES)})\b", re.IGNORECASE)
RESULT = re.compile(r"=\s*(?P<count>\d[\d,]*)\s+(?:correct|right)\b", re.IGNORECASE)
PAIR = 2
LONGEST = 10
"""Digits of a count that is none of questions."""
NEIGHBOURHOOD = 6
"""Lines of one list."""


def find(document: Document, _: Knowledge) -> Iterator[Finding]:
    """Correct and wrong answers of one list, and tables of outcomes, against the card's own k of n."""
    scores = [each for line in document.lines for each in fractions(line.text) if each.part <= each.whole]
    yield from _lists(document, scores)
    yield from _tables(document, {each.whole for each in scores})


def _lists(document: Document, scores: list[Fraction]) -> Iterator[Finding]:
    """A line "… = 159 correct" or "159 correct" that equals a score, and a line "29 wrong" in its neighbourhood."""
    text = [line for line in document.lines if not line.cells]
    for index, line in enumerate(text):
        correct = RESULT.search(line.text) or _only(line, ("correct", "right"))
        if correct is None:
            continue
        number = _count(correct)
        wholes = {score.whole for score in scores if score.part == number and score.whole > number}
        near = [other for other in text[index + 1 : index + NEIGHBOURHOOD] if other.number - line.number < NEIGHBOURHOOD]
        wrong = next((each for each in near if _only(each, ("wrong", "incorrect"))), None)
        if len(wholes) != 1 or wrong is None:
            continue
        total = wholes.pop()
        names = (
            _only(wrong, ("wrong", "incorrect")),
            *(match for each in near if each is not wrong for match in _nested(each)),
        )
        said = sum(_count(match) for match in names if match)
        if number + said != total:
            detail = f" ({' and '.join(str(_count(match)) for match in names if match)})" if len(names) > 1 else ""
            yield Finding(
                wrong.number,
                KIND,
                f"{number} of {total} are correct, so {total - number} are wrong; the card says {said}{detail}",
            )


def _only(line: Line, names: tuple[str, ...]) -> re.Match[str] | None:
    """The line's count of a class, when the line starts with it."""
    match = COUNTED.search(line.text)
    if match is None or match["name"].lower() not in names or len(line.text[: match.start()].strip(" •*-–·:")) > 0:
        return None
    return match


def _nested(line: Line) -> Iterator[re.Match[str]]:
    """Wrong answers that a line counts in parentheses, such as (5 correct, 5 wrong)."""
    for part in re.findall(r"\(([^()]*)\)", line.text):
        yield from (match for match in COUNTED.finditer(part) if match["name"].lower() in ("wrong", "incorrect"))


def _tables(document: Document, totals: set[int]) -> Iterator[Finding]:
    for table in document.tables:
        pairs = [row.cells for row in table.rows if len(row.cells) == PAIR]
        cells = [(name.strip().lower(), count.strip().replace(",", "")) for name, count in pairs]
        if len(cells) < PAIR or not all(
            name in CLASSES and count.isdecimal() and len(count) < LONGEST for name, count in cells
        ):
            continue
        total = sum(int(count) for _, count in cells)
        if totals and total not in totals:
            said = " or ".join(map(str, sorted(totals)[:3]))
            yield Finding(table.number, KIND, f"these outcomes add up to {total}; the card speaks of {said} questions")


def _count(match: re.Match[str]) -> int:
    return int(match["count"].replace(",", "")[:9])
