"""Timing: the seconds that each question of a run took, as a file of their own.

Seconds differ from run to run, so they would spoil the evidence, whose bytes do not.  They come from the ledger, which keeps
those of the questions that were asked before a run was killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Literal

from pydantic import FailFast, Field, ValidationError

from pruner.errors import InputError, first_problem
from pruner.files import canonical_json, write_atomic
from release.documents import Document, load_json_document
from release.evaluation.evidence import Answered, Evidence
from release.evaluation.ledger import Elapsed, Kind, Reply
from release.evaluation.protocol import MOST_REPEATS, Protocol
from release.patterns import Sha256

DECIMALS = 3
"""Of seconds: what the scheduler of a machine does to a request is no smaller."""
LARGEST_TIMING = 16 << 20
"""Bytes; a file beyond this is not read."""
SLACK_SECONDS = 60
"""For all of a request that has no time-out of its own."""
Last = Callable[[Kind, str, int], Reply | None]
"""`Ledger.last`: the reply that counts, by kind, question and repeat."""


class QuestionSeconds(Document):
    """From request to reply, of the replies that the evidence was scored from; `patch` of those that were asked again."""

    question_digest: Sha256
    repeat: Annotated[int, Field(strict=True, ge=0, lt=MOST_REPEATS)] = 0
    raw: Elapsed
    patch: Elapsed | None = None


class Timing(Document):
    """The seconds of one run, its questions in the order of its evidence."""

    schema_name: Literal["moe-release/timing/v1"] = "moe-release/timing/v1"
    protocol_digest: Sha256
    model_sha256: Sha256
    questions: Annotated[tuple[QuestionSeconds, ...], FailFast(), Field(min_length=1)]


def timing_of(evidence: Evidence, last: Last) -> Timing:
    """The seconds of every reply that the evidence was scored from."""
    return Timing(
        protocol_digest=evidence.protocol_digest,
        model_sha256=evidence.model_sha256,
        questions=tuple(_question(each, last) for each in evidence.questions),
    )


def _question(answered: Answered, last: Last) -> QuestionSeconds:
    asked = answered.question_digest, answered.repeat
    return QuestionSeconds(
        question_digest=answered.question_digest,
        repeat=answered.repeat,
        raw=_seconds(last("raw", *asked)),
        patch=_seconds(last("patch", *asked)) if answered.patched else None,
    )


def _seconds(reply: Reply | None) -> float:
    assert reply is not None  # noqa: S101  # the evidence was scored from it
    return round(reply.seconds, DECIMALS)


def timing_bytes(timing: Timing) -> bytes:
    """Canonical JSON."""
    return canonical_json(timing.model_dump(mode="json", exclude_none=True))


def write_timing(path: Path, timing: Timing) -> None:
    """Write a timing; a reader sees all of it or none."""
    write_atomic(path, timing_bytes(timing))


def read_timing(path: Path) -> Timing:
    """Read a timing.

    Raises:
        InputError: the file is missing, or is no timing.
    """
    try:
        return load_json_document(path, Timing, "the timing", LARGEST_TIMING)
    except ValidationError as error:
        raise InputError(f"{path}: no timing: {first_problem(error)}") from None


def longest_wait(protocol: Protocol) -> float:
    """Seconds that no request of a run takes: its last piece may come just in time, and be followed by as long a silence."""
    return 2 * protocol.limits.request_seconds + SLACK_SECONDS


def misfits(timing: Timing, evidence: Evidence, longest: float) -> Iterator[str]:
    """One phrase for each thing that a timing and its evidence say differently; no reply took more than `longest` seconds."""
    for name in ("protocol_digest", "model_sha256"):
        found, expected = getattr(timing, name), getattr(evidence, name)
        if found != expected:
            yield f"{name} is {found}, the evidence has {expected}"
    for number, (timed, answered) in enumerate(zip_longest(timing.questions, evidence.questions)):
        if problem := _misfit(timed, answered, longest):
            yield f"questions.{number}: {problem}"


def _misfit(timed: QuestionSeconds | None, answered: Answered | None, longest: float) -> str | None:
    if timed is None or answered is None:
        return "is in the evidence alone" if timed is None else "is not in the evidence"
    if (timed.question_digest, timed.repeat) != (answered.question_digest, answered.repeat):
        expected = f"{answered.question_digest[:12]}, repeat {answered.repeat}"
        return f"is {timed.question_digest[:12]}, repeat {timed.repeat}; the evidence has {expected}"
    if (timed.patch is None) != (answered.patched is None):
        return "has no seconds of its patch" if timed.patch is None else "has seconds of a patch that the evidence has not"
    slowest = max(timed.raw, timed.patch or 0)
    return f"took {slowest:,g} s, and the protocol's time-out leaves {longest:,g} s" if slowest > longest else None
