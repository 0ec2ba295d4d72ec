"""What became of each question, and why."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from release.evaluation.ledger import Reply
from release.evaluation.protocol import Loop, NGrams, OutcomeName

OUTCOMES: tuple[OutcomeName, ...] = get_args(OutcomeName)
Cause = Literal["parser", "time-out", "connection", "http", "malformed", "length", "budget", "loop", "no answer"]
CAUSES: dict[OutcomeName, frozenset[Cause | None]] = {
    "valid": frozenset({None}),
    "empty": frozenset({"budget", "no answer"}),
    "truncated": frozenset({"loop", "length"}),
    "unparsable": frozenset({"loop", "budget", "no answer"}),
    "failed": frozenset({"parser", "time-out", "connection", "http", "malformed"}),
}
"""What `classify` may give as the cause of each outcome."""


@dataclass(frozen=True)
class Outcome:
    """`name` is one of five classes; `cause` says more where it is known, and is None for a valid reply."""

    name: OutcomeName
    cause: Cause | None = None


def classify(reply: Reply, letter: str | None, loop: Loop, budget: int = -1) -> Outcome:
    """The outcome of a reply.

    Args:
        reply: the reply that counts.
        letter: what the protocol's filter extracted from it; None when it found nothing.
        loop: what counts as one.
        budget: tokens after which the server closes a thought; none when negative.

    Returns:
        failed when no usable reply arrived; truncated when max_tokens ended it, with or without a letter in it; empty when the
        content holds nothing but white space; unparsable when the filter finds no letter; else valid, right or wrong.
    """
    if reply.error is not None:
        return Outcome("failed", _cause_of_failure(reply))
    if reply.finish_reason == "length":
        return Outcome("truncated", "loop" if is_looping(reply, loop) else "length")
    if not (reply.content or "").strip():
        return Outcome("empty", "budget" if _used_up(reply, budget) else "no answer")
    if letter is None:
        return Outcome(
            "unparsable", "loop" if is_looping(reply, loop) else "budget" if _used_up(reply, budget) else "no answer"
        )
    return Outcome("valid")


def _used_up(reply: Reply, budget: int) -> bool:
    """Whether so many tokens were written that the server must have closed the thought (servers count them only together)."""
    return bool(reply.reasoning_content) and 0 < budget <= (reply.completion_tokens or 0)


def breakdown(outcomes: Iterable[OutcomeName]) -> dict[OutcomeName, int]:
    """How many questions each outcome has; every outcome is named, also with 0."""
    counted = dict.fromkeys(OUTCOMES, 0)
    for outcome in outcomes:
        counted[outcome] += 1
    return counted


def is_looping(reply: Reply, loop: Loop) -> bool:
    """Whether thought or answer loops; a thought that its budget closed goes on with an answer that does not."""
    return any(has_loop(text, loop) for text in (reply.reasoning_content, reply.content) if text)


def has_loop(text: str, loop: Loop) -> bool:
    """Whether a text loops: at its end to the letter, or anywhere word for word as far as the protocol counts words."""
    longest = min(loop.longest, len(text) // loop.repeats)
    ends = any(_ends_repeated(text, length, loop) for length in range(1, longest + 1))
    return ends or (loop.ngrams is not None and _repeats_words(text, loop.ngrams))


def _ends_repeated(text: str, length: int, loop: Loop) -> bool:
    piece = text[-length:]
    repeats = max(loop.repeats, -(-loop.characters // length))
    return text.endswith(piece * repeats)


def _repeats_words(text: str, limits: NGrams) -> bool:
    """Whether a window of words holds too many n-grams twice: seq-rep-n, one minus the share of different ones.

    Source: S. Welleck et al., "Neural text generation with unlikelihood training" (arXiv:1908.04319), section 3.
    """
    words = re.findall(r"\w+", text.casefold())
    size = limits.words - limits.length + 1
    inside: Counter[tuple[str, ...]] = Counter()
    grams = [tuple(words[place : place + limits.length]) for place in range(len(words) - limits.length + 1)]
    for place, gram in enumerate(grams):
        inside[gram] += 1
        if place >= size:
            left = grams[place - size]
            inside[left] -= 1
            if not inside[left]:
                del inside[left]
        if place >= size - 1 and size - len(inside) >= limits.share * size:
            return True
    return False


def _cause_of_failure(reply: Reply) -> Cause:
    if reply.status is None:
        return "time-out" if (reply.error or "").startswith("time-out") else "connection"
    if "does not match the expected" in reply.text:  # llama.cpp's chat parser refuses what the model wrote
        return "parser"
    return "malformed" if reply.status == 200 else "http"  # noqa: PLR2004  # HTTP's own number
