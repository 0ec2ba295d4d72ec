"""Which quants are evaluated, and what else stands in the results table."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from release.documents import Document
from release.patterns import Name
from release.reported import Reported
from release.sections.values import PinnedFile


class Eval(Document):
    """Which quants are evaluated, under which protocol."""

    protocol: str = Field(description="Path of the protocol, relative to the manifest's folder.")
    quants: list[Name] = Field(min_length=1)

    @field_validator("quants")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        if twice := next((name for name in value if value.count(name) > 1), None):
            raise ValueError(f"{twice!r} is named twice; a quant has one run")
        return value


class LmEvalFiles(Document):
    """The two files of one task that lm-eval wrote with --log_samples."""

    samples: PinnedFile = Field(description="Its samples_*.jsonl: the answers, from which the score is counted.")
    results: PinnedFile = Field(description="Its results_*.json: settings, and the score that must follow from the samples.")


class Compare(Document):
    """A row of the results table: evidence that we hold, an output of lm-eval, or a score that someone else published."""

    evidence: PinnedFile | None = None
    lm_eval: LmEvalFiles | None = Field(None, description="What an lm-eval run wrote.")
    label: str
    reference: bool = Field(default=False, description="The row that differences are taken from.")
    reported: Reported | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Compare:
        if [self.evidence, self.lm_eval, self.reported].count(None) != 2:  # noqa: PLR2004  # one of three
            raise ValueError("give either evidence, lm_eval or reported")
        if self.reference and self.evidence is None:
            raise ValueError("a reference needs evidence: differences are taken question by question")
        return self

    @property
    def files(self) -> tuple[PinnedFile, ...]:
        """Every file that the row is made of."""
        foreign = (self.lm_eval.samples, self.lm_eval.results) if self.lm_eval else ()
        return (self.evidence,) if self.evidence else foreign
