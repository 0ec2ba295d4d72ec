"""How much of a drop map is settled: the bootstrap over questions, cross-fitted maps, and knobs that turn nothing.

All of these only count questions more or less often, so they read the statistics once or a few times, question by question.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pruner.errors import InputError
from pruner.files import sha256_bytes
from pruner.folds import fold_of
from pruner.ranking import CoverageRanking, Kept, ScoreRanking, ranking_totals
from pruner.ranking_options import AnyRanking
from pruner.selection import Selection, kept_experts, kept_of
from pruner.statistics import ExpertStatistics, Floats
from pruner.totals import Totals, totals

SETTLED = 0.95
COIN_FLIP = 0.75
CELLS = 1 << 20
"""Most numbers of one kind of total that are held at once: 8 MB.  More rounds, or larger models, are more passes."""


@dataclass(frozen=True, eq=False)
class Stability:
    """How often each expert was dropped when the questions were drawn again."""

    dropped: Floats
    """[L, E]: share of the bootstrap rounds in which the expert was dropped."""
    drops: int
    """Drops of the map itself, over all layers."""
    settled: int
    """Drops that at least 95% of the rounds repeat."""
    coin_flips: int
    """Drops that fewer than 75% of the rounds repeat."""
    rounds: int


def bootstrap(
    statistics: ExpertStatistics, selection: Selection, rounds: int = 200, seed: int = 0, weights: Floats | None = None
) -> Stability:
    """Draw the questions again, with replacement, and count how often each expert of a layer is dropped.

    Memory is bounded whatever the number of questions: see `CELLS`.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 6.

    Args:
        statistics: of a whole calibration set.
        selection: of the map.
        rounds: how many times to draw.
        seed: names the draws.
        weights: of the questions; see `pruner.selection.question_weights`.

    Raises:
        InputError: fewer than two questions, no rounds, or the number to keep does not fit.
    """
    questions = len(statistics)
    if questions < 2 or rounds < 1:  # noqa: PLR2004 - one question cannot be resampled
        raise InputError(f"bootstrap: two questions and one round are needed, got {questions} and {rounds}")
    map_drops = _drops(statistics, kept_experts(statistics, selection, weights))
    dropped = np.zeros(map_drops.shape)
    step = max(1, CELLS // map_drops.size)
    for first in range(0, rounds, step):
        drawn = np.stack([_draws(seed, number, questions) for number in range(first, min(first + step, rounds))])
        for found in ranking_totals(statistics, selection.ranking, drawn if weights is None else drawn * weights):
            dropped += _drops(statistics, kept_of(found, statistics.header, selection))
    shares = dropped / rounds
    own = shares[map_drops.astype(bool)]
    return Stability(shares, len(own), int((own >= SETTLED).sum()), int((own < COIN_FLIP).sum()), rounds)


def fold_weights(statistics: ExpertStatistics, count: int, weights: Floats | None = None) -> tuple[Floats, ...]:
    """For each fold of cross-fitted selections the weights [Q] of the questions, with those of its own left out.

    A question of the exam whose digest falls into fold i (see `fold_of`) is scored by a model that did not see it.

    Raises:
        InputError: a fold would leave no question, or leave none out, or `count` is below two.
    """
    if count < 2:  # noqa: PLR2004 - with one fold nothing is left to measure
        raise InputError(f"folds {count}: at least two are needed")
    own = np.asarray([fold_of(digest, count) for digest in statistics.header.questions])
    result = []
    for fold in range(count):
        left = (own != fold).astype(np.float64) * (1.0 if weights is None else weights)
        if fold not in own:
            raise InputError(f"folds {count}: fold {fold} has none of the {len(own)} questions to leave out; use fewer folds")
        if not left.any():
            raise InputError(f"folds {count}: no question is left outside fold {fold}; use fewer folds")
        result.append(left)
    return tuple(result)


def inert_parameters(statistics: ExpertStatistics, selection: Selection, weights: Floats | None = None) -> tuple[str, ...]:
    """Names of the ranking's parameters whose other values select the same experts from these statistics.

    Every number of protected experts is tried for `protect`; for `alpha`, 0 and powers of four from 2^-20 to 2^20; for
    `tokens` the other scope.  Class weights, floors and pins, where there are any, are tried against having none.
    """
    ranking, rows = selection.ranking, None if weights is None else weights[None]
    own = ranking_totals(statistics, ranking, rows)[0]
    wanted = kept_of(own, statistics.header, selection)

    def same(changed: AnyRanking, found: Totals) -> bool:
        return kept_of(found, statistics.header, dataclasses.replace(selection, ranking=changed)) == wanted

    inert = {name for name, _ in _changes(ranking)}
    inert -= {name for name, changed in _changes(ranking) if not same(changed, own)}
    other = ranking.model_copy(update={"tokens": "answer" if ranking.tokens == "all" else "all"})
    if same(other, ranking_totals(statistics, other, rows)[0]):
        inert.add("tokens")
    if isinstance(ranking, CoverageRanking) and _protect_is_inert(statistics, ranking, rows, wanted, selection):
        inert.add("protect")
    if weights is not None and same(ranking, ranking_totals(statistics, ranking)[0]):
        inert.add("class_weights")
    return tuple(sorted(inert))


def _protect_is_inert(
    statistics: ExpertStatistics, ranking: CoverageRanking, rows: Floats | None, wanted: Kept, selection: Selection
) -> bool:
    """Whether every number of protected experts selects what is wanted."""
    step = max(1, CELLS // (len(statistics.header.layers) * statistics.header.experts))
    numbers = range(1, statistics.header.experts + 1)
    return all(
        kept_of(found, statistics.header, selection) == wanted
        for first in range(0, len(numbers), step)
        for found in totals(statistics, ranking.tokens, numbers[first : first + step], rows)[0]
    )


def _changes(ranking: AnyRanking) -> Iterator[tuple[str, AnyRanking]]:
    """The ranking with one parameter changed that needs no other totals, and that parameter's name."""
    if isinstance(ranking, ScoreRanking):
        for alpha in (0.0, *(2.0**power for power in range(-20, 21, 2))):
            yield "alpha", ranking.model_copy(update={"alpha": alpha})
    for name in ("floors", "pins"):
        if getattr(ranking, name) is not None:
            yield name, ranking.model_copy(update={name: None})


def _draws(seed: int, number: int, questions: int) -> Floats:
    """How often each question is drawn in a round.

    The draws are the SHA-256 of "seed/round/place", because a library's generator may change with its version.
    """
    rows = [int(sha256_bytes(f"{seed}/{number}/{place}".encode())[:15], 16) % questions for place in range(questions)]
    return np.bincount(rows, minlength=questions).astype(np.float64)


def _drops(statistics: ExpertStatistics, kept: Kept) -> Floats:
    """[L, E]: 1 where an expert is dropped."""
    result = np.ones((len(kept), statistics.header.experts))
    for layer, ids in enumerate(kept):
        result[layer, list(ids)] = 0
    return result
