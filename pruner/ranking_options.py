"""What a manifest says about rankings and gates.  Apart from the rankings, so that a command line starts without numpy."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ClassWeights(BaseModel):
    """How much the questions of a class count.  A class that is not named counts 1."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    column: str
    """Column of the calibration set that holds the class of a question, such as `High-level domain`."""
    weights: dict[str, Weight] = Field(min_length=1)
    """How much a question of each class counts; 0 leaves it out."""


class Floors(BaseModel):
    """Experts that a layer keeps whatever the method says of them: the best ones by another measure."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    by: Literal["norm", "tokens", "mean_norm"] = "norm"
    """The measure: summed weighted norm, tokens routed, or weighted norm per token; ties go to tokens, then to the index."""
    experts: PositiveInt | dict[NonNegativeInt, NonNegativeInt]
    """How many: one number for all layers, or one for each layer that has a floor."""


class RankingOptions(BaseModel):
    """Parameters that every method has."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    tokens: Literal["all", "answer"] = "all"
    """Which tokens count: all of a question, or only those of the reply."""
    class_weights: ClassWeights | None = None
    """How much the questions of a class count."""
    floors: Floors | None = None
    """Experts that a layer keeps whatever the method says of them."""
    pins: dict[NonNegativeInt, tuple[NonNegativeInt, ...]] | None = None
    """For a layer, experts that are kept whatever their rank."""
    groups: Literal["even", "whole"] | None = None
    """For a router with expert groups: keep as many of the best experts in each group (the default), or whole groups, those
    whose experts have the largest sum of what the method ranks by."""
    mtp: Literal["same_as_last"] | None = None
    """For a base with a multi-token prediction block, which a calibration set cannot measure: drop what its last layer drops.
    Without it, such a base is refused."""


class CoverageRanking(RankingOptions):
    """Parameters of `coverage`."""

    method: Literal["coverage"] = "coverage"
    """Experts are ranked by how many questions protect them, then by total weighted norm."""
    protect: int = Field(default=16, ge=1)
    """Experts of each layer that every question protects."""


class ScoreRanking(RankingOptions):
    """Parameters of `score`."""

    method: Literal["score"] = "score"
    """Experts are ranked by alpha times the summed weighted norm plus the token count."""
    alpha: float = Field(default=2.0, ge=0, allow_inf_nan=False)
    """Weight of the summed norms against the token counts."""


class ReapRanking(RankingOptions):
    """Parameters of `reap`."""

    method: Literal["reap"] = "reap"
    """Experts are ranked by the mean over their tokens of routing weight times the norm of their output."""


AnyRanking: TypeAlias = CoverageRanking | ScoreRanking | ReapRanking

Ranking = Annotated[AnyRanking, Field(discriminator="method")]
"""What a manifest's `prune.ranking` holds."""


class Gates(BaseModel):
    """What expert statistics must fulfil before a drop map may be made from them.  The defaults are strict."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    max_non_finite: float = Field(default=0.001, ge=0, le=1)
    """Largest share of token measurements (tokens x layers) that were skipped because they were not finite."""
    max_unrouted: float = Field(default=0.02, ge=0, le=1)
    """Largest share of the experts (layers x experts) that no token of any question was ever routed to."""
    max_starved_layers: int = Field(default=0, ge=0)
    """Largest number of layers in which fewer experts than the router's top-k were ever reached."""
    max_truncated: float = Field(default=0.05, ge=0, le=1)
    """Largest share of the questions that lost their end to `max_tokens`."""
