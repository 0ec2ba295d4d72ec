"""What is kept beside a drop map that was ranked here: how settled it is, and which knobs turned nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pruner.wording import counted
from release.documents import Document

if TYPE_CHECKING:
    from pruner.ranking import GateReport
    from pruner.selection import Selection
    from pruner.stability import Stability
    from pruner.statistics import ExpertStatistics, Floats

DECIMALS = 4


class RankingReport(Document):
    """Facts about a ranking that are no part of the map.

    Attributes:
        questions: in the calibration set.
        drops: of the map, over all layers.
        settled: drops that at least `settled_share` of the bootstrap rounds repeat; None where there is only one question.
        coin_flips: drops that fewer than `coin_flip_share` of the rounds repeat.
        inert: parameters of the ranking whose other values give the same map.
        dropped_share: for each layer, how often each expert was dropped.
        gates: the numbers that the gates looked at.
    """

    format: Literal["moe-release/ranking-report/v1"] = "moe-release/ranking-report/v1"
    questions: int
    drops: int
    settled: int | None
    coin_flips: int | None
    settled_share: float
    coin_flip_share: float
    rounds: int
    inert: tuple[str, ...]
    dropped_share: dict[str, tuple[float, ...]]
    gates: dict[str, Any]

    def sentence(self) -> str:
        """What the stage says of it."""
        inert = f"; {', '.join(self.inert)} cannot change this map" if self.inert else ""
        if self.settled is None:
            return f"{counted(self.drops, 'drop')}, from one question: how settled they are cannot be said{inert}"
        between = self.drops - self.settled - (self.coin_flips or 0)
        settled, flips = "is" if self.settled == 1 else "are", counted(self.coin_flips or 0, "coin flip")
        return (
            f"of {counted(self.drops, 'drop')} {self.settled} {settled} settled, {between} likely, {flips}"
            f" ({counted(self.rounds, 'bootstrap round')} over {counted(self.questions, 'question')}){inert}"
        )


def ranking_report(
    statistics: ExpertStatistics, selection: Selection, weights: Floats | None, gates: GateReport, idle: Sequence[str] = ()
) -> RankingReport:
    """Draw the questions again and turn every knob; see `pruner.stability`.  `idle`: knobs that the base has no use for."""
    from pruner.stability import COIN_FLIP, SETTLED, bootstrap, inert_parameters

    header = statistics.header
    found = bootstrap(statistics, selection, weights=weights) if len(header.questions) > 1 else None
    return RankingReport(
        questions=len(header.questions),
        drops=(header.experts - selection.keep) * len(header.layers),
        settled=found.settled if found else None,
        coin_flips=found.coin_flips if found else None,
        settled_share=SETTLED,
        coin_flip_share=COIN_FLIP,
        rounds=found.rounds if found else 0,
        inert=tuple(sorted({*inert_parameters(statistics, selection, weights), *idle})),
        dropped_share=_shares(found, header.layers) if found else {},
        gates=_numbers(gates),
    )


def _shares(found: Stability, layers: tuple[int, ...]) -> dict[str, tuple[float, ...]]:
    return {
        str(layer): tuple(round(float(share), DECIMALS) for share in shares)
        for layer, shares in zip(layers, found.dropped, strict=True)
    }


def _numbers(gates: GateReport) -> dict[str, Any]:
    numbers: Mapping[str, Any] = dataclasses.asdict(gates)
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in numbers.items()}
