"""Words that many messages share."""

from __future__ import annotations

from collections.abc import Sequence

MOST_NAMED = 3


def some(words: Sequence[str], most: int = MOST_NAMED) -> str:
    """The first `most` of the words, and how many there are beyond them: `a, b, c and 4 more`."""
    more = f" and {len(words) - most:,} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def counted(number: int, noun: str) -> str:
    """A number with a regular noun: `1 shard`, `1,200 shards`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def counted_that(number: int, noun: str, verb: str) -> str:
    """A number with a regular noun and its verb, given in the plural: `1 file differs`, `2 files differ`; `1 drop is`."""
    singular = {"are": "is", "have": "has"}.get(verb, f"{verb}s")
    return f"{counted(number, noun)} {singular if number == 1 else verb}"


def every(number: int, noun: str) -> str:
    """The same of all there are: `the 1 file`, `all 3 files`."""
    return f"{'the' if number == 1 else 'all'} {counted(number, noun)}"
