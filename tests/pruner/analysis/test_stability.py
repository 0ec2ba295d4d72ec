"""Bootstrap, folds, knobs that turn nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pruner.calibration import question_digest
from pruner.errors import InputError
from pruner.folds import fold_in, fold_of, seen_questions
from pruner.ranking import CoverageRanking, ReapRanking, ScoreRanking, coverage, keep_experts
from pruner.ranking_options import Floors
from pruner.selection import Selection, kept_experts
from pruner.stability import bootstrap, fold_weights, inert_parameters
from pruner.statistics import select

from .make import random_statistics, statistics_of


def test_a_clear_map_is_settled():
    norms = np.tile([[9.0, 8.0, 0.2, 0.1]], (12, 1, 1))
    result = bootstrap(statistics_of(norms), Selection(CoverageRanking(protect=2), 2), rounds=50)
    assert result.dropped.tolist() == [[0, 0, 1, 1]]
    assert (result.drops, result.settled, result.coin_flips) == (2, 2, 0)


def test_a_coin_flip_is_called_one():
    norms = np.array([[[9.0, 1.0 + (number % 2), 1.0 + (number % 2 == 0)]] for number in range(20)])
    result = bootstrap(statistics_of(norms), Selection(ScoreRanking(alpha=1.0), 2), rounds=200)
    assert result.dropped[0, 0] == 0
    assert 0.3 < result.dropped[0, 1] < 0.7
    np.testing.assert_allclose(result.dropped.sum(), 1)
    assert (result.drops, result.settled, result.coin_flips) == (1, 0, 1)


def test_the_bootstrap_repeats_itself():
    statistics = random_statistics(questions=10)
    first, second, other = (
        bootstrap(statistics, Selection(ReapRanking(), 4), rounds=20, seed=seed).dropped for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def test_the_bootstrap_needs_questions():
    with pytest.raises(InputError, match="two questions and one round are needed, got 1 and 5"):
        bootstrap(random_statistics(questions=1), Selection(ReapRanking(), 4), rounds=5)
    with pytest.raises(InputError, match="got 3 and 0"):
        bootstrap(random_statistics(questions=3), Selection(ReapRanking(), 4), rounds=0)


def test_no_fold_has_seen_its_questions():
    digests = tuple(question_digest(str(number)) for number in range(20))
    statistics = random_statistics(questions=20, seed=4, dataset_size=20)
    statistics = dataclasses.replace(statistics, header=statistics.header.model_copy(update={"questions": digests}))
    selection = Selection(CoverageRanking(protect=3), 4)
    made = [kept_experts(statistics, selection, weights) for weights in fold_weights(statistics, 3)]
    for fold, kept in enumerate(made):
        rows = [row for row, digest in enumerate(digests) if fold_of(digest, 3) != fold]
        assert 0 < len(rows) < 20
        assert kept == keep_experts(coverage(select(statistics, rows), 3), 4)
    assert len(set(made)) > 1
    with pytest.raises(InputError, match=r"fold \d+ has none of the 20 questions to leave out; use fewer folds"):
        fold_weights(statistics, 100)


def test_a_map_says_which_questions_it_saw():
    digests = [question_digest(str(number)) for number in range(20)]
    assert fold_in({}, "m.json") is None
    assert seen_questions(digests, None) == tuple(digests)
    fold = fold_in({"fold": {"index": 1, "count": 3, "rule": "x"}}, "m.json")
    assert fold == (1, 3)
    assert seen_questions(digests, fold) == tuple(each for each in digests if fold_of(each, 3) != 1)
    for wrong in (
        1,
        {},
        {"index": 3, "count": 3},
        {"index": True, "count": 3},
        {"index": -1, "count": 2},
        {"index": 0, "count": 0},
    ):
        with pytest.raises(InputError, match=r"m\.json: 'fold' must hold an index and a count"):
            fold_in({"fold": wrong}, "m.json")


def test_impossible_folds():
    statistics = random_statistics(questions=2)  # digests 0 and 1
    with pytest.raises(InputError, match="at least two"):
        fold_weights(statistics, 1)
    with pytest.raises(InputError, match="no question is left outside fold 0"):
        fold_weights(select(statistics, [0]), 2)


def test_a_knob_that_turns_nothing_is_named():
    same = statistics_of(np.tile([[4.0, 3.0, 2.0, 1.0]], (3, 1, 1)))
    assert inert_parameters(same, Selection(CoverageRanking(protect=2), 3)) == ("protect", "tokens")
    assert inert_parameters(same, Selection(ScoreRanking(), 3)) == ("alpha", "tokens")
    assert inert_parameters(same, Selection(ReapRanking(), 3)) == ("tokens",)
    noisy = random_statistics(questions=9, experts=16)
    assert inert_parameters(noisy, Selection(CoverageRanking(protect=2), 8)) == ()
    assert inert_parameters(noisy, Selection(ScoreRanking(), 8)) == ()


def test_floors_pins_and_class_weights_that_turn_nothing_are_named():
    same = statistics_of(np.tile([[4.0, 3.0, 2.0, 1.0]], (2, 1, 1)))
    one = np.ones(2)
    inert = ReapRanking(floors=Floors(experts=2), pins={0: (0,)})
    assert inert_parameters(same, Selection(inert, 2), one) == ("class_weights", "floors", "pins", "tokens")
    turning = ReapRanking(pins={0: (3,)})
    assert inert_parameters(same, Selection(turning, 2)) == ("tokens",)
    unlike = statistics_of([[[9.0, 1.0, 5.0]], [[1.0, 9.0, 1.0]]])
    assert inert_parameters(unlike, Selection(ScoreRanking(), 1), np.array([1.0, 9.0])) == ("tokens",)


def test_the_bootstrap_follows_the_weights():
    norms = np.array([[[5.0, 1.0]]] * 10 + [[[1.0, 5.0]]] * 10)
    weights = np.array([1.0] * 10 + [0.0] * 10)
    assert bootstrap(statistics_of(norms), Selection(ScoreRanking(), 1), rounds=40, weights=weights).settled == 1
    assert bootstrap(statistics_of(norms), Selection(ScoreRanking(), 1), rounds=40).settled == 0
