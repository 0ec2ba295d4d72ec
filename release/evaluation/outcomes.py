"""What became of each question, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from release.evaluation.ledger import Reply
from release.evaluation.protocol import OutcomeName

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
LOOP_REPEATS = 8
LOOP_CHARACTERS = 64
LOOP_LONGEST = 400
"""A loop is a piece of at most 400 characters that ends a reply 8 times or more, over 64 characters or more."""


@dataclass(frozen=True)
class Outcome:
    """`name` is one of five classes; `cause` says more where it is known, and is None for a valid reply."""

    name: OutcomeName
    cause: Cause | None = None


def classify(reply: Reply, letter: str | None, budget: int = -1) -> Outcome:
    """The outcome of a reply.

    Args:
        reply: the reply that counts.
        letter: what the protocol's filter extracted from it; None when it found nothing.
        budget: tokens after which the server closes a thought; none when negative.

    Returns:
        failed when no usable reply arrived; truncated when max_tokens ended it, with or without a letter in it; empty when the
        content holds nothing but white space; unparsable when the filter finds no letter; else valid, right or wrong.
    """
    if reply.error is not None:
        return Outcome("failed", _cause_of_failure(reply))
    if reply.finish_reason == "length":
        return Outcome("truncated", "loop" if is_looping(reply) else "length")
    if not (reply.content or "").strip():
        return Outcome("empty", "budget" if _used_up(reply, budget) else "no answer")
    if letter is None:
        return Outcome("unparsable", "loop" if is_looping(reply) else "budget" if _used_up(reply, budget) else "no answer")
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


def is_looping(reply: Reply) -> bool:
    """Whether the reply, thought and content together, ends in a loop."""
    return ends_in_loop((reply.reasoning_content or "") + (reply.content or ""))


def ends_in_loop(text: str) -> bool:
    """Whether a text ends in a loop."""
    return any(_repeats(text, length) for length in range(1, min(LOOP_LONGEST, len(text) // LOOP_REPEATS) + 1))


def _repeats(text: str, length: int) -> bool:
    piece = text[-length:]
    repeats = max(LOOP_REPEATS, -(-LOOP_CHARACTERS // length))
    return text.endswith(piece * repeats)


def _cause_of_failure(reply: Reply) -> Cause:
    if reply.status is None:
        return "time-out" if (reply.error or "").startswith("time-out") else "connection"
    if "does not match the expected" in reply.text:  # llama.cpp's chat parser refuses what the model wrote
        return "parser"
    return "malformed" if reply.status == 200 else "http"  # noqa: PLR2004  # HTTP's own number
