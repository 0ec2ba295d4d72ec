"""One fold of an exam: the questions that a cross-fitted variant's map did not see, and nothing that could pass for more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from pruner.errors import CheckFailedError, InputError
from pruner.folds import fold_of
from pruner.wording import counted
from release.documents import Document
from release.evaluation.data import Question, digest_of_questions
from release.patterns import Sha256


class Fold(Document):
    """Which part of an exam was asked, and of what it is a part.

    Attributes:
        index: from 0; see `pruner.folds.fold_of`.
        count: of folds.
        exam: questions of the whole exam.
        exam_digest: of all of them, in whatever order.
    """

    index: Annotated[int, Field(ge=0, lt=2**31)]
    count: Annotated[int, Field(ge=2, lt=2**31)]
    exam: Annotated[int, Field(ge=1, lt=2**31)]
    exam_digest: Sha256

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.index >= self.count:
            raise ValueError(f"fold {self.index} of {self.count}: count them from 0")
        return self

    @property
    def name(self) -> str:
        """For instance: fold 0 of 5."""
        return f"fold {self.index} of {self.count}"

    @property
    def file(self) -> str:
        """Where its evidence goes; never where a later stage looks for that of a whole run."""
        return f"evidence.fold-{self.index}-of-{self.count}.json"

    def holds(self, digest: str) -> bool:
        """Whether a question, by its digest, is one of this fold."""
        return fold_of(digest, self.count) == self.index


def fold_to_ask(questions: Sequence[Question], fold: tuple[int, int], calibration: Sequence[str] | None) -> Fold:
    """The fold of an exam that a variant may answer.

    Args:
        questions: of the whole exam.
        fold: its index and the number of folds.
        calibration: digests of the questions that the variant's experts were chosen with.

    Raises:
        InputError: nobody says what they were chosen with, or the exam has no question of this fold.
        CheckFailedError: they were chosen with a question of this fold.
    """
    digests = [each.digest for each in questions]
    found = Fold(index=fold[0], count=fold[1], exam=len(digests), exam_digest=digest_of_questions(digests))
    own = {each for each in digests if found.holds(each)}
    if not own:
        raise InputError(f"--fold {fold[0]}/{fold[1]}: the exam has no question of this fold; use fewer folds")
    if calibration is None:
        raise InputError(
            f"--fold {fold[0]}/{fold[1]}: nobody says which questions the drop map was made from; "
            "name them in prune.calibration beside the pinned map"
        )
    if seen := own.intersection(calibration):
        raise CheckFailedError(
            f"--fold {fold[0]}/{fold[1]}: the drop map was made with {len(seen)} of the {counted(len(own), 'question')} of "
            "this fold; pin the map that `moe-release rank --folds` made without them"
        )
    return found
