"""Prose: markdown that a person writes.  Numbers come from claims."""

from __future__ import annotations

import re

from pruner.errors import InputError

MEASURE = r"per[ -]?cent|points?|fold|times"
"""Words that make a number of what stands before them, with a hyphen or without a space: 97-percent, 20-fold."""
NUMBER = re.compile(
    r"(?<![^\W_]|[.\-])[+−-]?\.?\d[\d.,/]*"
    rf"(?:-\d[\d.,]*(?![\w\-])|-?(?:{MEASURE})\b|\s?(?:%|pp|[KMGT]i?B|[BM]|x|×)?(?![\w\-]))"
)
SCORE = re.compile(rf"(?<![^\W_]|[.\-])[+−-]?\.?\d[\d.,/]*[\s-]?(?:%|pp\b|(?:{MEASURE})\b)")
"""What is a number in code too, which is not always code."""
LONGEST = 100_000
CODE = re.compile(r"`([^`\n]*)`")
FENCE = re.compile(r"^```(?P<language>[^\n`]*)\n.*?^```", re.DOTALL | re.MULTILINE)
WORDS = frozenset({"", "text", "txt", "md", "markdown", "console"})
"""Languages of a fence that may hold sentences."""
EXPRESSION = re.compile(r"\{\{(.*?)(?:\}\}|\Z)|\{%(.*?)(?:%\}|\Z)", re.DOTALL)
"""What nobody closes goes on to the end (jinja refuses it): looking for its end from each beginning would never be done."""
CLAIM = re.compile(r"\s*[a-z_]\w*(?:\.\w+|\[\d+\])*\s*")
COMMENT = re.compile(r"\{#.*?(?:#\}|\Z)", re.DOTALL)
NOT_PROSE = re.compile(r"\]\((?:(?!\]\()[^)\n])*\)|https?://\S+", re.DOTALL)
MARKER = re.compile(r"^[ \t]*(\d{1,9})\.(?=\s)", re.MULTILINE)


def require_no_numbers(text: str, name: str, *, template: bool = False) -> None:
    """Check that a person typed no number: fenced code, links, list markers, names in backquotes and claims do not count.

    Percentages and points count in fences of text and between backquotes too: they are no names.  A list counts from one.

    A claim is printed by its plain name, `{{ parameters.variant }}`: no arithmetic, no constants, no statements.  Only a
    `template` may hold statements; what these print is checked by who reads them.

    Raises:
        InputError: with line and what stands there.
    """
    if len(text) > LONGEST:
        raise InputError(f"{name}: {len(text):,} characters are too many for a card's prose; at most {LONGEST:,}")
    text = COMMENT.sub(_blank, text)
    for match in () if template else EXPRESSION.finditer(text):
        if match[1] is None or not CLAIM.fullmatch(match[1]):
            raise InputError(f"{_place(name, text, match.start())}: prose may only print claims by name, not {match[0]!r}")
    blanked = NOT_PROSE.sub(_blank, EXPRESSION.sub(_blank, FENCE.sub(_without_code, text)))
    blanked = CODE.sub(_without_names, _without_markers(blanked))
    if found := NUMBER.search(blanked):
        raise InputError(
            f"{_place(name, blanked, found.start())}: the number {found[0].strip()!r} has no source; write a claim such as "
            "{{ parameters.variant }}, or put names with digits between backquotes"
        )


def _without_markers(text: str) -> str:
    """Blank the markers of lists, which go up by one: a sentence that ends in `97.` may end on a line of its own."""
    last = 0

    def marker(match: re.Match[str]) -> str:
        nonlocal last
        if int(match[1]) not in (0, 1, last + 1):
            return match[0]
        last = int(match[1])
        return _blank(match)

    return MARKER.sub(marker, text)


def _without_names(match: re.Match[str]) -> str:
    """Blank a name in backquotes; a bare number stays one, and so does a score."""
    return match[0].replace("`", " ") if NUMBER.fullmatch(match[1].strip()) else _scores(match)


def _without_code(match: re.Match[str]) -> str:
    return _scores(match) if match["language"].strip().lower() in WORDS else _blank(match)


def _scores(match: re.Match[str]) -> str:
    """Nothing but percentages and points, where they stood."""
    kept = [range(*score.span()) for score in SCORE.finditer(match[0])]
    places = {place for each in kept for place in each}
    return "".join(each if each == "\n" or place in places else " " for place, each in enumerate(match[0]))


def _blank(match: re.Match[str]) -> str:
    """The same number of characters and lines, so that places stay right."""
    return re.sub(r"[^\n]", " ", match[0])


def _place(name: str, text: str, position: int) -> str:
    return f"{name}:{text.count(chr(10), 0, position) + 1}"
