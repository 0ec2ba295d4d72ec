"""One score from the runs of cross-fitted variants: each question counts as the variant answered it that did not see it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pruner.errors import CheckFailedError, InputError
from pruner.folds import fold_of
from pruner.wording import counted, counted_that
from release.documents import Document
from release.evaluation.evidence import Answered, Evidence, Interval, require_whole, totals

SAME = ("protocol_digest", "questions_digest", "data_sha256", "quant", "task_version", "lm_eval", "repeats")
"""What the runs must have in common for their answers to be one score."""


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


def cross_fit(runs: Mapping[str, Evidence]) -> CrossFit:
    """Join the runs of the variants of `rank --folds`, in the order of their folds.

    Args:
        runs: name and evidence; the i-th is of the variant whose map was made without the questions of fold i.

    Raises:
        InputError: fewer than two runs.
        CheckFailedError: a run is partial, the runs differ in more than their model, or one does not say what it saw, or saw
            questions of its own fold.
    """
    if len(runs) < 2:  # noqa: PLR2004 - that is what a fold takes
        raise InputError("cross-fit: give the evidence of every fold, two or more, in the order of the folds")
    names, found = list(runs), list(runs.values())
    for name, evidence in runs.items():
        require_whole(evidence, name)
        different = [key for key in SAME if getattr(evidence, key) != getattr(found[0], key)]
        if different:
            raise CheckFailedError(f"cross-fit: {name} and {names[0]} differ in {', '.join(different)}")
    parts = [_own(name, evidence, index, len(runs)) for index, (name, evidence) in enumerate(runs.items())]
    by_place = {(each.question_digest, each.repeat): each for part in parts for each in part}
    joined = tuple(by_place[each.question_digest, each.repeat] for each in found[0].questions)
    numbers: dict[str, Any] = totals(joined)
    return CrossFit(
        protocol=found[0].protocol,
        protocol_digest=found[0].protocol_digest,
        quant=found[0].quant,
        seen=len({digest for evidence in found if evidence.calibration for digest in evidence.calibration.overlap}),
        parts=tuple(_part(name, part) for name, part in zip(names, parts, strict=True)),
        **{name: numbers[name] for name in CrossFit.model_fields if name in numbers},
    )


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
