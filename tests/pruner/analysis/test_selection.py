"""Class weights, floors and pins on hand-made numbers whose results are known."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from pruner.errors import InputError
from pruner.ranking import coverage, rank, reap, score
from pruner.ranking_options import ClassWeights, CoverageRanking, Floors, Ranking, ReapRanking, ScoreRanking
from pruner.selection import Selection, kept_experts, question_weights

from .make import random_statistics, statistics_of

NORMS = [[[9.0, 4.0, 1.0]], [[9.0, 1.0, 4.0]], [[9.0, 1.0, 4.0]]]
COUNTS = [[[1, 1, 1]], [[1, 1, 2]], [[1, 1, 2]]]
HEAVY = np.array([5.0, 1.0, 1.0])


def test_class_weights_count_a_question_several_times() -> None:
    plain = statistics_of(NORMS, COUNTS)
    assert coverage(plain, 2) == ((0, 2, 1),)  # protected 3, 1, 2
    assert coverage(plain, 2, weights=HEAVY) == ((0, 1, 2),)  # protected 7, 5, 2
    assert score(plain, 1.0) == ((0, 2, 1),)  # 30, 9, 14
    assert score(plain, 1.0, weights=HEAVY) == ((0, 1, 2),)  # 70, 29, 22
    assert reap(plain) == ((0, 1, 2),)  # 9, 2, 9/5
    assert reap(plain, weights=np.array([0.1, 1.0, 1.0])) == ((0, 2, 1),)  # 9, 2.4/2.1, 8.1/4.1


def test_a_weight_of_one_changes_nothing_and_a_whole_number_repeats_a_question() -> None:
    statistics = random_statistics(questions=6, experts=12)
    twice = statistics_of(
        np.repeat(statistics.sums("all").weighted_norm, [2, 1, 1, 1, 1, 1], axis=0),
        np.repeat(statistics.sums("all").count, [2, 1, 1, 1, 1, 1], axis=0),
    )
    weights = np.array([2.0, 1, 1, 1, 1, 1])
    for ranking in (CoverageRanking(protect=3), ScoreRanking(), ReapRanking()):
        assert rank(statistics, ranking, np.ones(6)) == rank(statistics, ranking)
        assert rank(statistics, ranking, weights) == rank(twice, ranking)


def test_weights_come_from_the_class_of_each_question() -> None:
    statistics = statistics_of(NORMS)
    one, two, three = statistics.header.questions
    ranking = ScoreRanking(class_weights=ClassWeights(column="field", weights={"botany": 3.0}))
    classes = {one: "botany", two: "law", three: "botany"}
    assert question_weights(statistics, ranking, classes).tolist() == [3.0, 1.0, 3.0]  # type: ignore[union-attr]
    assert question_weights(statistics, ScoreRanking(), classes) is None


@pytest.mark.parametrize(
    ("weights", "left_out", "message"),
    [
        ({"music": 1.0}, 0, "no question is of class 'music'; the classes are botany, law"),
        ({"botany": 0.0, "law": 0.0}, 0, "every question has the weight 0"),
        ({"botany": 2.0}, 1, "has no class; rank with the set that was measured"),
    ],
)
def test_class_weights_that_do_not_fit(weights: dict[str, float], left_out: int, message: str) -> None:
    statistics = statistics_of(NORMS)
    classes = dict(zip(statistics.header.questions[left_out:], ("botany", "law", "law"), strict=False))
    with pytest.raises(InputError, match=message):
        question_weights(statistics, ReapRanking(class_weights=ClassWeights(column="c", weights=weights)), classes)


def test_pins_are_kept_whatever_their_rank() -> None:
    statistics = statistics_of([[[4, 3, 2, 1], [4, 3, 2, 1]]], layers=(3, 7))
    assert kept_experts(statistics, Selection(ReapRanking(), 2)) == ((0, 1), (0, 1))
    assert kept_experts(statistics, Selection(ReapRanking(pins={7: (3,)}), 2)) == ((0, 1), (0, 3))
    assert kept_experts(statistics, Selection(ReapRanking(pins={3: (2, 3), 7: (0, 0)}), 2)) == ((2, 3), (0, 1))


def test_a_floor_keeps_the_best_by_another_measure() -> None:
    norms, counts = [[[8, 9, 6, 10]]], [[[1, 3, 9, 5]]]  # per token 8, 3, 2/3, 2
    statistics = statistics_of(norms, counts)
    assert kept_experts(statistics, Selection(ReapRanking(), 2)) == ((0, 1),)
    assert kept_experts(statistics, Selection(ReapRanking(floors=Floors(experts=1)), 2)) == ((0, 3),)
    assert kept_experts(statistics, Selection(ReapRanking(floors=Floors(experts={0: 2})), 2)) == ((1, 3),)
    assert kept_experts(statistics, Selection(ReapRanking(floors=Floors(by="tokens", experts=1)), 2)) == ((0, 2),)
    assert kept_experts(statistics, Selection(ScoreRanking(floors=Floors(by="mean_norm", experts=1)), 2)) == ((0, 3),)
    assert kept_experts(statistics, Selection(ReapRanking(floors=Floors(experts=1), pins={0: (2,)}), 3)) == ((0, 2, 3),)


def test_a_floors_ties_go_to_the_tokens_and_then_to_the_index() -> None:
    statistics = statistics_of([[[1, 5, 5, 5]]], [[[1, 2, 3, 3]]])  # per token 1, 2.5, 1.67, 1.67
    assert kept_experts(statistics, Selection(ReapRanking(floors=Floors(experts=1)), 1)) == ((2,),)
    assert kept_experts(statistics, Selection(ReapRanking(floors=Floors(experts=2)), 2)) == ((2, 3),)


def test_a_floor_may_differ_from_layer_to_layer() -> None:
    layer = [8, 9, 6, 10]
    statistics = statistics_of([[layer, layer]], [[[1, 3, 9, 5]] * 2], layers=(0, 5))
    ranking = ReapRanking(floors=Floors(experts={5: 2}))
    assert kept_experts(statistics, Selection(ranking, 2)) == ((0, 1), (1, 3))


@pytest.mark.parametrize(
    ("ranking", "message"),
    [
        (ReapRanking(pins={9: (1,)}), "ranking.pins: the base has no MoE layer 9"),
        (ReapRanking(pins={0: (4,)}), "ranking.pins: layer 0 has experts 0 to 3, not 4"),
        (ReapRanking(pins={0: (0, 1, 2)}), "floor and pins of layer 0 ask for 3 experts, prune.experts keeps 2"),
        (ReapRanking(floors=Floors(experts={8: 1})), "ranking.floors: the base has no MoE layer 8"),
        (ReapRanking(floors=Floors(experts=25)), "ask for 25 experts, prune.experts keeps 2"),
        (ReapRanking(floors=Floors(experts=2), pins={0: (3,)}), "ask for 3 experts"),
    ],
)
def test_floors_and_pins_that_do_not_fit(ranking: ReapRanking, message: str) -> None:
    with pytest.raises(InputError, match=message):
        kept_experts(statistics_of([[[4, 3, 2, 1]]]), Selection(ranking, 2))


GROUPED = statistics_of([[[9, 1, 8, 2, 7, 6, 3, 4]]])
"""Four groups of two: sums 10, 10, 13, 7."""


def test_groups_keep_as_many_of_their_best_each() -> None:
    assert kept_experts(GROUPED, Selection(ReapRanking(), 4)) == ((0, 2, 4, 5),)
    assert kept_experts(GROUPED, Selection(ReapRanking(), 4, groups=4)) == ((0, 2, 4, 7),)
    assert kept_experts(GROUPED, Selection(ReapRanking(groups="even", pins={0: (1, 6)}), 4, groups=4)) == ((1, 2, 4, 6),)
    assert kept_experts(GROUPED, Selection(ReapRanking(floors=Floors(experts=2)), 4, groups=4)) == ((0, 2, 4, 7),)


def test_whole_groups_stay_by_the_sum_of_their_experts() -> None:
    whole = ReapRanking(groups="whole")
    assert kept_experts(GROUPED, Selection(whole, 2, groups=4)) == ((4, 5),)
    assert kept_experts(GROUPED, Selection(whole, 4, groups=4)) == ((0, 1, 4, 5),), "a tie goes to the lower group"
    assert kept_experts(GROUPED, Selection(whole.model_copy(update={"pins": {0: (7,)}}), 4, groups=4)) == ((4, 5, 6, 7),)
    coverage_first = CoverageRanking(protect=2, groups="whole")  # protects 0 and 2
    assert kept_experts(GROUPED, Selection(coverage_first, 4, groups=4)) == ((0, 1, 2, 3),)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (
            Selection(ReapRanking(), 3, groups=4),
            "cannot be spread evenly over the base's 4 expert groups; keep a multiple of 4",
        ),
        (Selection(ReapRanking(groups="whole"), 3, groups=4), "no number of whole expert groups of 2 experts"),
        (Selection(ReapRanking(pins={0: (0, 1)}), 4, groups=4), "layer 0 ask for 2 experts of expert group 0, which keeps 1"),
        (Selection(ReapRanking(groups="whole", pins={0: (0, 2)}), 2, groups=4), "layer 0 ask for 2 expert groups"),
        (Selection(ReapRanking(groups="even"), 4), "the base's router has no expert groups; remove the key"),
    ],
)
def test_groups_that_do_not_fit(selection: Selection, message: str) -> None:
    with pytest.raises(InputError, match=message):
        kept_experts(GROUPED, selection)


def test_more_experts_than_there_are_cannot_be_protected() -> None:
    assert len(kept_experts(GROUPED, Selection(CoverageRanking(protect=8), 4))[0]) == 4
    with pytest.raises(InputError, match=r"ranking\.protect: 9 experts cannot be protected, a layer has 8; lower it"):
        kept_experts(GROUPED, Selection(CoverageRanking(protect=9), 4))


def test_manifest_text_becomes_floors_pins_and_weights() -> None:
    parse = TypeAdapter(Ranking).validate_python
    found = parse(
        {
            "method": "coverage",
            "class_weights": {"column": "field", "weights": {"law": 2}},
            "floors": {"by": "tokens", "experts": {"3": 2}},
            "pins": {"0": [1, 2]},
        }
    )
    assert found.pins == {0: (1, 2)}
    assert found.floors == Floors(by="tokens", experts={3: 2})
    assert "pins" not in parse({"method": "reap"}).model_dump(exclude_none=True)
    for wrong in (
        {"class_weights": {"column": "c", "weights": {}}},
        {"class_weights": {"column": "c", "weights": {"a": -1}}},
        {"class_weights": {"weights": {"a": 1}}},
        {"floors": {"experts": 0}},
        {"floors": {"by": "luck", "experts": 1}},
        {"pins": {"x": [1]}},
        {"pins": {"0": [-1]}},
    ):
        with pytest.raises(ValidationError):
            parse({"method": "reap", **wrong})
