"""Folds of questions, by the questions' digests: which of them a cross-fitted map did not see."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pruner.errors import InputError


def parse_part(text: str, option: str) -> tuple[int, int]:
    """`0/3` as (0, 3): which of how many.

    Raises:
        InputError: the option's text is none.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None or not int(match[1]) < int(match[2]):
        raise InputError(f"{option} {text}: write i/n with i from 0 to n-1, such as 0/3")
    return int(match[1]), int(match[2])


def fold_of(digest: str, count: int) -> int:
    """The fold of a question: its digest, as a number, modulo the number of folds."""
    return int(digest, 16) % count


def fold_in(provenance: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    """The fold (index, count) whose questions a map was made without; None for a map of all questions.

    Raises:
        InputError: what the map says of its fold is none.
    """
    fold = provenance.get("fold")
    if fold is None:
        return None
    index, count = (fold.get("index"), fold.get("count")) if isinstance(fold, dict) else (None, None)
    if type(index) is not int or type(count) is not int or not 0 <= index < count:
        raise InputError(f"{where}: 'fold' must hold an index and a count, as `moe-release rank --folds` writes them")
    return index, count


def seen_questions(digests: Sequence[str], fold: tuple[int, int] | None) -> tuple[str, ...]:
    """The questions of a calibration set that a map with this fold was made from."""
    return tuple(each for each in digests if fold is None or fold_of(each, fold[1]) != fold[0])
