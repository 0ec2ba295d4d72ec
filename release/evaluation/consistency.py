"""Evidence that contradicts itself: each answer must agree with itself, and all answers with what is said of them together."""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from pruner.calibration import LETTERS
from release.evaluation.data import digest_of_questions
from release.evaluation.outcomes import CAUSES

if TYPE_CHECKING:
    from release.evaluation.evidence import Answered, Evidence


def contradictions(answer: Answered) -> Iterator[str]:
    """One phrase for each thing in an answer that cannot be true together."""
    letters = LETTERS[: len(answer.option_order)]
    if sorted(answer.option_order) != list(range(len(letters))):
        yield f"option_order {list(answer.option_order)} is no order of its options"
    named = [("target", answer.target), ("raw_letter", answer.raw_letter)]
    named += [("patched.letter", answer.patched.letter)] if answer.patched else []
    for name, letter in named:
        if letter is not None and not (len(letter) == 1 and letter in letters):
            yield f"{name} {reprlib.repr(letter)} is none of {letters}"
    if answer.raw_correct != (answer.raw_letter == answer.target):
        yield _wrongly_scored("raw_correct", answer.raw_correct, answer.raw_letter, answer.target)
    if answer.patched and answer.patched.correct != (answer.patched.letter == answer.target):
        yield _wrongly_scored("patched.correct", answer.patched.correct, answer.patched.letter, answer.target)
    yield from _impossible_outcome(answer)


def _wrongly_scored(name: str, said: bool, letter: str | None, target: str) -> str:  # noqa: FBT001  # what the evidence says
    return f"{name} is {said} for the letter {reprlib.repr(letter)} where {reprlib.repr(target)} is right"


def _impossible_outcome(answer: Answered) -> Iterator[str]:
    """What `release.evaluation.outcomes.classify` never gives."""
    if answer.cause not in CAUSES[answer.outcome]:
        yield f"outcome {answer.outcome} never has the cause {answer.cause!r}"
    if answer.outcome == "valid" and answer.raw_letter is None:
        yield "outcome valid without a letter"
    if answer.outcome in {"empty", "unparsable", "failed"} and answer.raw_letter is not None:
        yield f"outcome {answer.outcome} with the letter {reprlib.repr(answer.raw_letter)}"
    if answer.outcome != "failed" and (answer.outcome == "truncated") != (answer.finish_reason == "length"):
        yield f"outcome {answer.outcome} with finish_reason {reprlib.repr(answer.finish_reason)}"


def disagreements(evidence: Evidence) -> Iterator[str]:
    """One phrase for each thing that the answers and the rest of the evidence say differently."""
    rows = {digest: list(rows) for digest, rows in groupby(evidence.questions, lambda each: each.question_digest)}
    whole = all(_repeats(each, evidence.repeats) for each in rows.values())
    if not whole or sum(map(len, rows.values())) != len(evidence.questions):
        yield "a question appears twice, or not in each repeat"
    if len({each.id for each in evidence.questions}) != len(rows):
        yield "two questions have the same id"
    if any(not _same_question(each) for each in rows.values()):
        yield "a question was put differently from repeat to repeat"
    if len({len(each.option_order) for each in evidence.questions}) != 1:
        yield "not all questions have the same number of options"
    if evidence.questions_digest != (found := digest_of_questions(list(rows))):
        yield f"questions_digest is {evidence.questions_digest}, its questions give {found}"
    yield from _patch_disagreements(evidence)
    yield from _fold_disagreements(evidence, set(rows))
    if evidence.calibration and any(not _of_exam(evidence, each, rows) for each in evidence.calibration.overlap):
        yield "the calibration overlaps with questions that were not asked"
    if evidence.calibration and not _bounded(evidence.calibration.overlap, evidence.calibration.questions):
        yield "the calibration overlaps with more questions than it has, or with one twice"


def _repeats(rows: Sequence[Answered], repeats: int) -> bool:
    return [each.repeat for each in rows] == list(range(repeats))


def _same_question(rows: Sequence[Answered]) -> bool:
    return len({(each.id, each.prompt_digest, each.option_order, each.target) for each in rows}) == 1


def _patch_disagreements(evidence: Evidence) -> Iterator[str]:
    """The patched answers are those of the named outcomes, all of them and no other."""
    if (evidence.patch_method is None) != (not evidence.patch_outcomes) or "valid" in evidence.patch_outcomes:
        method = reprlib.repr(evidence.patch_method)
        yield f"patch_method {method} does not go with patch_outcomes {list(evidence.patch_outcomes)}"
    for each in evidence.questions:
        if each.patched and each.outcome not in evidence.patch_outcomes:
            yield f"question {reprlib.repr(each.id)} was patched whose outcome the protocol does not name"
        if not each.patched and each.outcome in evidence.patch_outcomes:
            yield f"question {reprlib.repr(each.id)} was not patched whose outcome the protocol names"


def _fold_disagreements(evidence: Evidence, asked: set[str]) -> Iterator[str]:
    """A fold's answers are those of its own questions, and never the whole exam."""
    fold = evidence.fold
    if fold is None:
        return
    if not evidence.partial:
        yield f"{fold.name} is said to be the whole exam"
    if not all(map(fold.holds, asked)):
        yield f"a question is not of {fold.name}"
    if len(asked) > fold.exam:
        yield f"{fold.name} has more questions than the whole exam"


def _of_exam(evidence: Evidence, digest: str, asked: Collection[str]) -> bool:
    """Whether a question was asked; of one of another fold, that is the other fold's to say."""
    return digest in asked or (evidence.fold is not None and not evidence.fold.holds(digest))


def _bounded(overlap: Sequence[str], questions: int) -> bool:
    return len(set(overlap)) == len(overlap) <= questions
