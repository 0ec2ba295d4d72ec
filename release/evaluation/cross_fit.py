"""One score from the runs of cross-fitted variants: each question counts as the variant answered it that did not see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pruner.errors import CheckFailedError, InputError
from pruner.folds import fold_of
from pruner.wording import counted, counted_that
from release.documents import Document
from release.evaluation.data import digest_of_questions
from release.evaluation.evidence import Answered, Evidence, Interval, require_complete, require_whole, totals
from release.evaluation.gates import require_gates
from release.evaluation.protocol import Protocol

SAME = ("protocol_digest", "data_sha256", "quant", "task_version", "lm_eval", "repeats", "tokenizer_sha256")
"""What the runs must have in common for their answers to be one score, beside the exam."""


class Part(Document):
    """What one run gives to the score: the questions of its own fold."""

    run: str
    total: int
    raw_correct: int
    patched_correct: int


class CrossFit(Document):
    """The joined score.

    Attributes:
        total: answers, each from the run of its question's fold.
        seen: questions of the exam that some variant's calibration set held; none answers one that it saw itself.
        parts: the runs, in the order of their folds.
    """

    protocol: str
    protocol_digest: str
    quant: str
    total: int
    seen: int
    raw_correct: int
    raw_interval: Interval
    patched_correct: int
    patched_interval: Interval
    parts: tuple[Part, ...]

    def text(self) -> str:
        """For a person."""
        lines = [
            f"fold {number}: {part.run}: {part.raw_correct} raw, {part.patched_correct} patched of {part.total}"
            for number, part in enumerate(self.parts)
        ]
        scores = (
            f"{name} {correct / self.total:.1%} ({correct} of {self.total}, 95 % interval {both.low:.1%} to {both.high:.1%})"
            for name, correct, both in (
                ("raw", self.raw_correct, self.raw_interval),
                ("patched", self.patched_correct, self.patched_interval),
            )
        )
        seen = f"{counted_that(self.seen, 'question', 'are')} in the calibration set; no variant answers one that it saw"
        return "\n".join([*lines, *scores, seen])


def cross_fit(runs: Mapping[str, Evidence], protocol: Protocol | None = None) -> CrossFit:
    """Join the runs of the variants of `rank --folds`.

    Args:
        runs: name and evidence.  Whole runs in the order of their folds: the i-th is of the variant whose map was made without
            the questions of fold i.  Or runs of `eval --fold`, in any order.
        protocol: that they follow.  The joined answers must be its exam and pass its gates, as no fold had to by itself.

    Raises:
        InputError: fewer than two runs, or runs of folds without their protocol.
        CheckFailedError: a run is partial, the runs differ in more than their model, one does not say what it saw, or saw a
            question of its own fold, a fold is missing or there twice, or the joined answers are not the exam or fail a gate.
    """
    if len(runs) < 2:  # noqa: PLR2004 - that is what a fold takes
        raise InputError("cross-fit: give the evidence of every fold, two or more")
    folded = [name for name, evidence in runs.items() if evidence.fold]
    if folded and protocol is None:
        raise InputError(
            f"cross-fit: {folded[0]} is of one fold, whose gates hold for all folds together; "
            "name the protocol that the runs follow: --protocol FILE"
        )
    runs = _in_order(runs) if folded else runs
    names, found = list(runs), list(runs.values())
    for name, evidence in runs.items():
        if not folded:
            require_whole(evidence, name)
        different = [key for key in SAME if getattr(evidence, key) != getattr(found[0], key)]
        different += ["exam"] if _exam(evidence) != _exam(found[0]) else []
        if different:
            raise CheckFailedError(f"cross-fit: {name} and {names[0]} differ in {', '.join(different)}")
    parts = [_own(name, evidence, index, len(runs)) for index, (name, evidence) in enumerate(runs.items())]
    joined = _joined(found, parts)
    if protocol is not None:
        _require_protocol(protocol, found[0], joined)
    numbers: dict[str, Any] = totals(joined)
    return CrossFit(
        protocol=found[0].protocol,
        protocol_digest=found[0].protocol_digest,
        quant=found[0].quant,
        seen=len({digest for evidence in found if evidence.calibration for digest in evidence.calibration.overlap}),
        parts=tuple(_part(name, part) for name, part in zip(names, parts, strict=True)),
        **{name: numbers[name] for name in CrossFit.model_fields if name in numbers},
    )


def _exam(evidence: Evidence) -> tuple[int, str]:
    """How many questions the exam has that a run answered, wholly or one fold of it, and their digest."""
    if evidence.fold:
        return evidence.fold.exam, evidence.fold.exam_digest
    return evidence.asked, evidence.questions_digest


def _in_order(runs: Mapping[str, Evidence]) -> dict[str, Evidence]:
    """Runs of folds by their index; each fold once, and none missing."""
    found: dict[int, str] = {}
    counts: dict[int, str] = {}
    for name, evidence in runs.items():
        if evidence.fold is None:
            raise CheckFailedError(f"cross-fit: {name} is no run of one fold, others are; run it with --fold too")
        fold = evidence.fold
        if first := next((other for count, other in counts.items() if count != fold.count), None):
            raise CheckFailedError(f"cross-fit: {name} is {fold.name}, and {first} is of another number of folds")
        if fold.index in found:
            raise CheckFailedError(f"cross-fit: {found[fold.index]} and {name} are both {fold.name}; give each fold once")
        counts[fold.count], found[fold.index] = name, name
    (count,) = counts
    if missing := [str(index) for index in range(count) if index not in found]:
        raise CheckFailedError(
            f"cross-fit: fold {', '.join(missing)} of {count} is missing; "
            f"run its variant with `moe-release eval --fold {missing[0]}/{count}`"
        )
    return {found[index]: runs[found[index]] for index in sorted(found)}


def _joined(found: Sequence[Evidence], parts: Sequence[tuple[Answered, ...]]) -> tuple[Answered, ...]:
    """All answers, in the order of the first run's; of runs of folds, fold after fold.

    Raises:
        CheckFailedError: they are not the whole exam.
    """
    by_place = {(each.question_digest, each.repeat): each for part in parts for each in part}
    places = by_place if found[0].fold else [(each.question_digest, each.repeat) for each in found[0].questions]
    joined = tuple(by_place[place] for place in places)
    digests = list(dict.fromkeys(each.question_digest for each in joined))
    asked, digest = _exam(found[0])
    if digest_of_questions(digests) != digest:
        raise CheckFailedError(
            f"cross-fit: the folds have {counted(len(digests), 'question')} together, which are not the {asked} of the exam; "
            "run every fold under the same protocol"
        )
    return joined


def _require_protocol(protocol: Protocol, first: Evidence, joined: tuple[Answered, ...]) -> None:
    """Raise CheckFailedError unless the joined answers are the protocol's exam and pass its gates."""
    digest = digest_of_questions(list(dict.fromkeys(each.question_digest for each in joined)))
    whole = {"partial": False, "fold": None, "calibration": None, "questions": joined, "questions_digest": digest}
    require_complete(first.model_copy(update={**whole, **totals(joined)}), protocol, "the joined run")
    require_gates(protocol, joined)


def _own(name: str, evidence: Evidence, index: int, count: int) -> tuple[Answered, ...]:
    """The answers of a run to the questions of its fold."""
    if evidence.calibration is None:
        raise CheckFailedError(
            f"cross-fit: {name} does not say what its map was made from; name it in prune.calibration and run it again"
        )
    saw = [digest for digest in evidence.calibration.overlap if fold_of(digest, count) == index]
    if saw:
        raise CheckFailedError(
            f"cross-fit: {name} saw {counted(len(saw), 'question')} of fold {index} of {count}; "
            "give one run for each fold, in the order of the folds"
        )
    return tuple(each for each in evidence.questions if fold_of(each.question_digest, count) == index)


def _part(name: str, questions: tuple[Answered, ...]) -> Part:
    raw, patched = sum(each.raw_correct for each in questions), sum(each.correct for each in questions)
    return Part(run=name, total=len(questions), raw_correct=raw, patched_correct=patched)
