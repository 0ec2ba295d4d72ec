"""Rankings: expert statistics → the order of the experts of each layer, best first → the experts to keep.

Every ranking has an explicit rule for ties that ends with the expert's index, so that equal statistics give equal orders on
any machine.  Sums are taken over the numbers as the statistics file holds them, in float64, so that statistics in memory and
statistics read from their file rank alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pruner.errors import CheckFailedError, InputError
from pruner.files import sha256_bytes
from pruner.ranking_options import (
    AnyRanking,
    CoverageRanking,
    Gates,
    Ranking,
    RankingOptions,
    ReapRanking,
    ScoreRanking,
)
from pruner.statistics import ExpertStatistics, Floats, Header, Scope
from pruner.totals import Totals, totals
from pruner.wording import counted, some

__all__ = [
    "METHODS",
    "CoverageRanking",
    "GateReport",
    "Gates",
    "Kept",
    "Method",
    "Order",
    "Ranking",
    "ReapRanking",
    "ScoreRanking",
    "check_gates",
    "coverage",
    "gate_report",
    "inverted",
    "keep_experts",
    "merits",
    "order_of",
    "random_ranking",
    "rank",
    "reap",
    "score",
]

Order: TypeAlias = tuple[tuple[int, ...], ...]
"""For each MoE layer the ids of its experts, best first."""
Kept: TypeAlias = tuple[tuple[int, ...], ...]
"""For each MoE layer the ids of the experts to keep, ascending."""


MOST_IDLE = 8
"""Experts or layers that a failed gate names one by one."""

Merits: TypeAlias = tuple[Floats, Floats]
"""What experts are ranked by, and what decides between equal ones, both [L, E]; larger is better, ties go to the index."""


@dataclass(frozen=True)
class Method:
    """A ranking method: its parameters, what it does in one sentence, and where it comes from."""

    parameters: type[RankingOptions]
    description: str
    source: str
    merits: Callable[[Totals, Any], Merits]
    """Totals over the questions, parameters → what experts are ranked by."""


def coverage(statistics: ExpertStatistics, protect: int = 16, tokens: Scope = "all", weights: Floats | None = None) -> Order:
    """Experts by how many questions protect them.

    In each layer, a question protects the `protect` experts with the largest Σ‖weight·output‖₂ over its tokens.  An expert that
    the question never reached is not protected.  Experts rank by the number of questions that protect them, then by the
    weighted norm summed over all questions, then by index.  With `weights` [Q] a question counts as many times in both.

    Source: the method that the model card of gemma-4-A4B-109e-v3 describes ("per-question top-16 protection").
    """
    return rank(statistics, CoverageRanking(protect=protect, tokens=tokens), weights)


def score(statistics: ExpertStatistics, alpha: float = 2.0, tokens: Scope = "all", weights: Floats | None = None) -> Order:
    """Experts by Σ over questions of alpha · Σ‖weight·output‖₂ + token count, then by token count, then by index.

    With `weights` [Q] each question's norms and counts are multiplied by its weight.

    Source: the published scripts behind the same family of cards (mann1x/omnimergekit: `wnorm * 2.0 + tc`).
    """
    return rank(statistics, ScoreRanking(alpha=alpha, tokens=tokens), weights)


def reap(statistics: ExpertStatistics, tokens: Scope = "all", weights: Floats | None = None) -> Order:
    """Experts by the mean of ‖weight·output‖₂ over the tokens routed to them, then by token count, then by index.

    An expert that no token was routed to has saliency 0.  With `weights` [Q] the mean is weighted by question.

    Source: router-weighted expert activation pruning, Lasby et al., "REAP the Experts: Why Pruning Prevails for One-Shot MoE
    Compression", arXiv:2510.13999, equation of the saliency S_j.
    """
    return rank(statistics, ReapRanking(tokens=tokens), weights)


def best_by(found: Totals, measure: str) -> Order:
    """Experts by one of the measures that `Floors` names, then by token count, then by index."""
    return order_of(({"norm": found.norms, "tokens": found.counts, "mean_norm": _mean_norms(found)}[measure], found.counts))


def _mean_norms(found: Totals) -> Floats:
    """Mean weighted norm per routed token [L, E], 0 where there is none."""
    return np.divide(found.norms, found.counts, out=np.zeros_like(found.norms), where=found.counts > 0)


def random_ranking(layers: int, experts: int, seed: int) -> Order:
    """An order drawn from `seed` alone: what a map must beat.

    Experts are sorted by the SHA-256 of "seed/layer/expert", because a library's generator may change with its version.
    """

    def key(layer: int, expert: int) -> str:
        return sha256_bytes(f"{seed}/{layer}/{expert}".encode())

    return tuple(tuple(sorted(range(experts), key=partial(key, layer))) for layer in range(layers))


def inverted(order: Order) -> Order:
    """The same order, worst first: what a map must beat by far."""
    return tuple(tuple(reversed(layer)) for layer in order)


METHODS: dict[str, Method] = {
    "coverage": Method(
        CoverageRanking,
        "experts by the number of questions that have them among their strongest, then by summed weighted norm",
        "model card of gemma-4-A4B-109e-v3",
        lambda found, _: (found.protected, found.norms),
    ),
    "score": Method(
        ScoreRanking,
        "experts by alpha times the summed weighted norm plus the number of tokens",
        "https://github.com/mann1x/omnimergekit",
        lambda found, ranking: (ranking.alpha * found.norms + found.counts, found.counts),
    ),
    "reap": Method(
        ReapRanking,
        "experts by the mean weighted norm over the tokens routed to them",
        "arXiv:2510.13999",
        lambda found, _: (_mean_norms(found), found.counts),
    ),
}


def ranking_totals(statistics: ExpertStatistics, ranking: AnyRanking, weights: Floats | None = None) -> list[Totals]:
    """What `ranking` needs, for each row of `weights` [W, Q]; None: one row in which all questions count once.

    Raises:
        InputError: the statistics hold no question.
    """
    if not statistics.header.questions:
        raise InputError("ranking: the expert statistics hold no question")
    protect = ranking.protect if isinstance(ranking, CoverageRanking) else 1
    return [found[0] for found in totals(statistics, ranking.tokens, (protect,), weights)]


def merits(found: Totals, ranking: AnyRanking) -> Merits:
    """What the method and the parameters that `ranking` names rank experts by."""
    return METHODS[ranking.method].merits(found, ranking)


def rank(statistics: ExpertStatistics, ranking: AnyRanking, weights: Floats | None = None) -> Order:
    """Order of the experts by the method and the parameters that `ranking` names.

    Floors, pins and expert groups do not change the order, but what is kept of it: see `pruner.selection`.

    Args:
        statistics: of a calibration set.
        ranking: the method and its parameters.
        weights: [Q] of the questions; None: all count alike.

    Raises:
        InputError: the statistics hold no question.
    """
    found = ranking_totals(statistics, ranking, None if weights is None else weights[None])
    return order_of(merits(found[0], ranking))


def keep_experts(order: Order, count: int, pins: Mapping[int, Sequence[int]] | None = None) -> Kept:
    """The ids of the `count` best experts of each layer, ascending.

    Args:
        order: for each MoE layer its experts, best first.
        count: how many to keep.
        pins: for a row of `order`, experts that are kept whatever their rank.

    Raises:
        InputError: `count` is not 1 to the number of experts, or the pins do not fit.
    """
    experts = len(order[0]) if order else 0
    if not 1 <= count <= experts:
        raise InputError(f"cannot keep {count} of {experts} experts; prune.experts must be 1 to {experts}")
    kept = []
    for row, layer in enumerate(order):
        pinned = tuple(dict.fromkeys((pins or {}).get(row, ())))
        if len(pinned) > count or not set(pinned) <= set(layer):
            raise InputError(
                f"pins of MoE layer {row}: at most {count} ids of existing experts can be kept, got {list(pinned)}"
            )
        rest = [expert for expert in layer if expert not in pinned]
        kept.append(tuple(sorted((*pinned, *rest[: count - len(pinned)]))))
    return tuple(kept)


@dataclass(frozen=True)
class GateReport:
    """The numbers that the gates look at."""

    non_finite: float
    """Share of token measurements (tokens x layers) that were skipped."""
    damaged_cells: int
    """Sums (question x layer x expert) that are not finite."""
    unrouted: float
    """Share of the experts that were never reached: no token was routed to them, or nothing but zeros came out."""
    unrouted_experts: tuple[tuple[int, ...], ...]
    """For each MoE layer the experts that were never reached."""
    chosen_from: tuple[int, ...]
    """For each MoE layer the experts that tokens of the ranking's own scope reached."""
    starved_layers: tuple[int, ...]
    """Numbers of the layers in which fewer experts than top-k were reached."""
    truncated: float
    """Share of truncated questions."""
    complete: bool
    """Whether every question of the calibration set was measured."""


def gate_report(statistics: ExpertStatistics, tokens: Scope = "all", weights: Floats | None = None) -> GateReport:
    """Compute the numbers that the gates look at.

    Args:
        statistics: of a calibration set.
        tokens: the scope that the ranking counts.
        weights: [Q] of the questions; those that count nothing are left out here too.
    """
    header = statistics.header
    rows = np.arange(len(statistics)) if weights is None else np.flatnonzero(weights)
    reached, counted = (np.zeros((len(header.layers), header.experts), dtype=bool) for _ in range(2))
    damaged = 0
    for question in map(statistics.question, rows.tolist()):
        reached |= question.all.weighted_norm > 0
        counted |= question.scope(tokens).weighted_norm > 0
        for sums in (question.all, question.answer):
            arrays = (sums.weighted_norm, sums.weighted_norm_squared, sums.norm, sums.weight)
            damaged += sum(int((~np.isfinite(array)).sum()) for array in arrays)
    measurements = int(statistics.tokens[rows].sum()) * len(header.layers)
    return GateReport(
        non_finite=int(statistics.skipped[rows].sum()) / max(measurements, 1),
        damaged_cells=damaged,
        unrouted=float((~reached).mean()),
        unrouted_experts=tuple(tuple(np.flatnonzero(~layer).tolist()) for layer in reached),
        chosen_from=tuple(int(number) for number in counted.sum(axis=1)),
        starved_layers=tuple(
            number for number, layer in zip(header.layers, reached, strict=True) if layer.sum() < header.top_k
        ),
        truncated=float(statistics.truncated[rows].mean()),
        complete=statistics.complete,
    )


def check_gates(
    statistics: ExpertStatistics,
    gates: Gates,
    keep: int | None = None,
    tokens: Scope = "all",
    weights: Floats | None = None,
) -> GateReport:
    """Refuse statistics that no drop map should be made from.

    Args:
        statistics: of a whole calibration set.
        gates: the thresholds.
        keep: experts per layer that a map would keep.  A layer with fewer experts ever reached is refused, because the rest
            would be chosen by their index.
        tokens: the scope that the ranking counts.
        weights: [Q] of the questions; those that count nothing are left out here too.

    Raises:
        CheckFailedError: one or more gates failed; the message has all the numbers.
    """
    report = gate_report(statistics, tokens, weights)
    failed = []
    if not report.complete:
        failed.append(f"{len(statistics.header.questions)} of {statistics.header.dataset_size} questions are measured")
    if report.damaged_cells:
        failed.append(f"{report.damaged_cells} sums are not finite")
    failed += _over_the_gates(report, gates, statistics.header)
    if keep is not None and min(report.chosen_from) < keep:
        reached = min(report.chosen_from)
        layer = statistics.header.layers[report.chosen_from.index(reached)]
        failed.append(
            f"questions ever reached only {counted(reached, 'expert')} of layer {layer}, so {keep} cannot be chosen by merit; "
            "use more questions, or lower prune.experts"
        )
    if failed:
        raise CheckFailedError(f"expert statistics: no drop map may be made: {'; '.join(failed)}")
    return report


def _over_the_gates(report: GateReport, gates: Gates, header: Header) -> list[str]:
    """What is over a threshold, where, and the key of the manifest that holds it."""
    key, failed = "prune.analysis.gates.", []
    if report.non_finite > gates.max_non_finite:
        failed.append(
            f"{report.non_finite:.3%} of the token measurements were not finite (at most {gates.max_non_finite:.3%}); "
            f"raise {key}max_non_finite, or measure with prune.analysis.dtype float32"
        )
    if report.unrouted > gates.max_unrouted:
        idle = [
            f"{layer} (experts {some([str(expert) for expert in experts], MOST_IDLE)})"
            for layer, experts in zip(header.layers, report.unrouted_experts, strict=True)
            if experts
        ]
        failed.append(
            f"{report.unrouted:.2%} of the experts were never reached (at most {gates.max_unrouted:.2%}), "
            f"in layers {some(idle)}; raise {key}max_unrouted, or use more questions"
        )
    if len(report.starved_layers) > gates.max_starved_layers:
        layers = some([str(layer) for layer in report.starved_layers], MOST_IDLE)
        failed.append(
            f"fewer experts than top-{header.top_k} were reached in layers {layers}; "
            f"raise {key}max_starved_layers, or use more questions"
        )
    if report.truncated > gates.max_truncated:
        failed.append(
            f"{report.truncated:.2%} of the questions lost their end to max_tokens {header.max_tokens} "
            f"(at most {gates.max_truncated:.2%}); raise prune.analysis.max_tokens or {key}max_truncated"
        )
    return failed


def order_of(merits: Merits) -> Order:
    """Experts of each layer by the first merit, then by the second, both descending, then by index."""
    layers: list[NDArray[Any]] = [np.lexsort((-two, -one)) for one, two in zip(*merits, strict=True)]
    return tuple(tuple(layer.tolist()) for layer in layers)
