"""Scores that someone else published: shown with their source, in no test, and held against their own arithmetic."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from release.documents import Document


class Reported(Document):
    """A score that someone else published and that was not reproduced here."""

    exam: str | None = Field(None, description="What was asked, such as GPQA Diamond.")
    quant: str | None = Field(None, description="What answered, such as Q6_K.")
    correct: int = Field(ge=0, description="Correct answers of the published score, patched if it was.")
    total: int = Field(gt=0, le=10**9)
    raw_correct: int | None = Field(None, ge=0, description="Correct answers before any patch, where the source tells them.")
    percent: Annotated[Decimal, Field(ge=0, le=100, max_digits=8)] | None = Field(
        None, description="The published percentage; it must follow from the counts."
    )
    url: Annotated[str, StringConstraints(pattern=r"^https://[A-Za-z0-9._~:/?#@!$&'()*+,;=%-]+$")]
    date: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2}$")] | None = Field(
        None, description="When it was published; leave it out where the source does not say."
    )

    @property
    def origin(self) -> str:
        """What was asked, where and when it was published."""
        where = f"{self.url} on {self.date}" if self.date else f"{self.url} (no date given)"
        return f"{self.exam}, reported at {where}" if self.exam else f"reported at {where}"

    @model_validator(mode="after")
    def _adds_up(self) -> Reported:
        for name in ("correct", "raw_correct"):
            if (value := getattr(self, name)) is not None and value > self.total:
                raise ValueError(f"{name} is {value}, of {self.total} questions")
        if self.percent is not None:
            true = Decimal(100) * self.correct / self.total
            places = -int(self.percent.as_tuple().exponent)
            if abs(true - self.percent) > Decimal(5).scaleb(-places - 1):
                raise ValueError(f"{self.correct} of {self.total} is {true:.2f} %, not {self.percent} %")
        return self
