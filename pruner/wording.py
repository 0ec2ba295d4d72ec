"""Words that many messages share."""

from __future__ import annotations

from collections.abc import Sequence

MOST_NAMED = 3


def some(words: Sequence[str], most: int = MOST_NAMED) -> str:
    """The first `most` of the words, and how many there are beyond them: `a, b, c and 4 more`."""
    more = f" and {len(words) - most:,} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more
