"""Prose: markdown that a person writes.  Numbers come from claims."""

from __future__ import annotations

import re

from pruner.errors import InputError

NUMBER = re.compile(r"(?<![^\W_]|[.\-])[+−-]?\d[\d.,/]*\s?(?:%|pp|[KMGT]i?B|[BM]|x|×)?(?![\w\-])")
LONGEST = 100_000
CODE = re.compile(r"`([^`\n]*)`")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
EXPRESSION = re.compile(r"\{\{(.*?)(?:\}\}|\Z)|\{%(.*?)(?:%\}|\Z)", re.DOTALL)
"""What nobody closes goes on to the end (jinja refuses it): looking for its end from each beginning would never be done."""
CLAIM = re.compile(r"\s*[a-z_]\w*(?:\.\w+|\[\d+\])*\s*")
COMMENT = re.compile(r"\{#.*?(?:#\}|\Z)", re.DOTALL)
NOT_PROSE = re.compile(r"\]\((?:(?!\]\()[^)\n])*\)|https?://\S+|^[ \t]*\d+\.\s", re.DOTALL | re.MULTILINE)


def require_no_numbers(text: str, name: str, *, template: bool = False) -> None:
    """Check that a person typed no number: fenced code, links, list markers, names in backquotes and claims do not count.

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
    blanked = NOT_PROSE.sub(_blank, EXPRESSION.sub(_blank, FENCE.sub(_blank, text)))
    blanked = CODE.sub(_without_names, blanked)
    if found := NUMBER.search(blanked):
        raise InputError(
            f"{_place(name, blanked, found.start())}: the number {found[0].strip()!r} has no source; write a claim such as "
            "{{ parameters.variant }}, or put names with digits between backquotes"
        )


def _without_names(match: re.Match[str]) -> str:
    """Blank a name in backquotes; a bare number stays one."""
    return match[0].replace("`", " ") if NUMBER.fullmatch(match[1].strip()) else _blank(match)


def _blank(match: re.Match[str]) -> str:
    """The same number of characters and lines, so that places stay right."""
    return re.sub(r"[^\n]", " ", match[0])


def _place(name: str, text: str, position: int) -> str:
    return f"{name}:{text.count(chr(10), 0, position) + 1}"
