"""Rankings on hand-made numbers whose results are known, and the gates."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pruner.errors import CheckFailedError, InputError
from pruner.ranking import (
    METHODS,
    CoverageRanking,
    Gates,
    Ranking,
    ReapRanking,
    ScoreRanking,
    check_gates,
    coverage,
    gate_report,
    inverted,
    keep_experts,
    random_ranking,
    rank,
    reap,
    score,
)

from .make import random_statistics, statistics_of


def test_coverage_counts_questions_before_norms():
    # Expert 3 has by far the largest sum, from one question; experts 0 and 1 are protected by two questions each.
    norms = [[[5, 4, 1, 0]], [[5, 6, 1, 0]], [[1, 2, 3, 900]]]
    assert coverage(statistics_of(norms), protect=2) == ((1, 0, 3, 2),)
    #   protected: q0 {0,1}, q1 {1,0}, q2 {3,2} → coverage 2, 2, 1, 1; sums 11, 12, 5, 900


def test_coverage_ties_go_to_the_sum_and_then_to_the_index():
    assert coverage(statistics_of([[[2, 2, 2, 2]]]), protect=2) == ((0, 1, 2, 3),)
    assert coverage(statistics_of([[[1, 1, 3, 3]]]), protect=4) == ((2, 3, 0, 1),)


def test_an_expert_that_was_never_reached_is_never_protected():
    # With protect=3 the third place of the first two questions is a tie of zeros: nobody gets it.
    norms = [[[0, 0, 5, 4]], [[0, 0, 5, 4]], [[0, 1, 5, 4]]]
    assert coverage(statistics_of(norms), protect=3) == ((2, 3, 1, 0),)


def test_coverage_layers_are_independent():
    norms = np.array([[[1, 2, 3], [3, 2, 1]]], dtype=float)
    assert coverage(statistics_of(norms), protect=1) == ((2, 1, 0), (0, 1, 2))


def test_score_adds_alpha_norms_and_counts():
    norms, counts = [[[10, 1, 4]]], [[[1, 20, 12]]]
    assert score(statistics_of(norms, counts), alpha=2.0) == ((1, 0, 2),)  # 21, 22, 20
    assert score(statistics_of(norms, counts), alpha=3.0) == ((0, 2, 1),)  # 31, 23, 24
    assert score(statistics_of(norms, counts), alpha=0.0) == ((1, 2, 0),)


def test_score_ties_go_to_the_count_and_then_to_the_index():
    assert score(statistics_of([[[3, 2, 2, 3]]], [[[2, 4, 4, 2]]]), alpha=2.0) == ((1, 2, 0, 3),)  # all 8


def test_reap_is_a_mean_over_routed_tokens():
    norms, counts = [[[10, 6, 0]], [[2, 0, 0]]], [[[9, 2, 0]], [[1, 0, 0]]]
    assert reap(statistics_of(norms, counts)) == ((1, 0, 2),)  # 12/10, 6/2, never reached


def test_reap_ties_go_to_the_count_and_then_to_the_index():
    assert reap(statistics_of([[[2, 4, 2]]], [[[1, 2, 1]]])) == ((1, 0, 2),)


def test_answer_tokens_can_be_ranked_alone():
    statistics = statistics_of([[[3, 2, 1]]], answer=[[[1, 2, 3]]])
    for ranking in (CoverageRanking(protect=1), ScoreRanking(), ReapRanking()):
        assert rank(statistics, ranking) == ((0, 1, 2),)
        assert rank(statistics, ranking.model_copy(update={"tokens": "answer"})) == ((2, 1, 0),)


def test_manifest_text_becomes_a_ranking():
    parse = TypeAdapter(Ranking).validate_python
    assert parse({"method": "coverage", "protect": 16}) == CoverageRanking(protect=16)
    assert parse({"method": "score", "alpha": 1.5}) == ScoreRanking(alpha=1.5)
    assert parse({"method": "reap"}) == ReapRanking()
    for wrong in (
        {"method": "cover"},
        {"method": "reap", "protect": 1},
        {"method": "coverage", "protect": 0},
        {"method": "score", "alpha": -1},
        {"method": "score", "alpha": float("nan")},
        {},
    ):
        with pytest.raises(ValidationError):
            parse(wrong)


def test_every_method_is_described_with_its_source():
    assert set(METHODS) == {"coverage", "score", "reap"}
    for name, method in METHODS.items():
        assert method.parameters().model_dump()["method"] == name
        assert method.description
        assert method.source


def test_parameters_reach_the_function():
    statistics = random_statistics(questions=9, experts=16)
    assert rank(statistics, CoverageRanking(protect=2)) == coverage(statistics, 2) != coverage(statistics, 9)
    assert rank(statistics, ScoreRanking(alpha=0.0)) == score(statistics, 0.0) != score(statistics, 50.0)


def test_random_rankings_come_from_the_seed_alone():
    assert random_ranking(2, 8, seed=1) == random_ranking(2, 8, seed=1) != random_ranking(2, 8, seed=2)
    assert random_ranking(1, 6, seed=0) == ((4, 2, 0, 5, 1, 3),)  # the same on every machine and in every version
    assert all(sorted(layer) == list(range(8)) for layer in random_ranking(3, 8, seed=5))


def test_inverted():
    assert inverted(((2, 0, 1), (0, 1, 2))) == ((1, 0, 2), (2, 1, 0))


def test_keep_experts():
    order = ((3, 1, 0, 2), (0, 1, 2, 3))
    assert keep_experts(order, 2) == ((1, 3), (0, 1))
    assert keep_experts(order, 4) == ((0, 1, 2, 3),) * 2
    assert keep_experts(order, 2, pins={0: (2,), 1: (3, 3)}) == ((2, 3), (0, 3))
    for count in (0, 5, -1):
        with pytest.raises(InputError, match="must be 1 to 4"):
            keep_experts(order, count)
    with pytest.raises(InputError, match="pins of MoE layer 1"):
        keep_experts(order, 1, pins={1: (0, 1)})
    with pytest.raises(InputError, match="pins of MoE layer 0"):
        keep_experts(order, 2, pins={0: (9,)})


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from(["coverage", "score", "reap"]))
def test_every_order_is_a_permutation_and_does_not_depend_on_the_order_of_questions(seed: int, experts: int, method: str):
    statistics = random_statistics(questions=4, layers=2, experts=experts, seed=seed)
    ranking = TypeAdapter(Ranking).validate_python({"method": method})
    order = rank(statistics, ranking)
    assert all(sorted(layer) == list(range(experts)) for layer in order)
    turned = dataclasses.replace(statistics, question=lambda row: statistics.question(3 - row))
    assert rank(turned, ranking) == order


def good() -> np.ndarray:
    return np.arange(1, 13, dtype=float).reshape(2, 2, 3)


def test_good_statistics_pass_the_gates():
    report = check_gates(statistics_of(good()), Gates(), keep=3)
    assert (report.non_finite, report.unrouted, report.starved_layers, report.truncated) == (0, 0, (), 0)


def test_gate_for_skipped_tokens():
    statistics = dataclasses.replace(statistics_of(good()), skipped=np.array([[4, 0], [0, 0]]))
    assert gate_report(statistics).non_finite == 4 / 400  # two questions of 100 tokens, two layers
    with pytest.raises(CheckFailedError, match=r"1\.000% of the token measurements were not finite \(at most 0\.100%\)"):
        check_gates(statistics, Gates())
    check_gates(statistics, Gates(max_non_finite=0.01))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_gate_for_damaged_sums(value: float):
    norms = good()
    norms[1, 0, 2] = value
    with pytest.raises(CheckFailedError, match="sums are not finite"):
        check_gates(statistics_of(norms), Gates(max_non_finite=1))


def test_gate_for_experts_that_were_never_reached():
    norms = good()
    norms[:, 1, 2] = 0
    assert gate_report(statistics_of(norms)).unrouted_experts == ((), (2,))
    with pytest.raises(CheckFailedError, match=r"16\.67% of the experts were never reached \(at most 2\.00%\)") as caught:
        check_gates(statistics_of(norms), Gates())
    assert "in layers 1 (experts 2); raise prune.analysis.gates.max_unrouted, or use more questions" in str(caught.value)
    check_gates(statistics_of(norms), Gates(max_unrouted=0.2), keep=2)
    with pytest.raises(CheckFailedError, match=r"ever reached only 2 experts of layer [0-9]+, so 3 cannot be chosen by merit"):
        check_gates(statistics_of(norms), Gates(max_unrouted=0.2), keep=3)


def test_an_expert_of_zeros_is_as_good_as_never_reached():
    norms = good()
    norms[:, 1, 2] = 0
    dead = statistics_of(norms, np.ones(norms.shape))
    assert gate_report(dead).unrouted_experts == ((), (2,))


def test_experts_are_chosen_from_those_that_the_rankings_tokens_reached():
    answer = good()
    answer[:, 0, 1:] = 0
    statistics = statistics_of(good(), answer=answer)
    assert check_gates(statistics, Gates(), keep=3).chosen_from == (3, 3)
    with pytest.raises(CheckFailedError, match=r"ever reached only 1 expert of layer [0-9]+, so 3 cannot be chosen by merit"):
        check_gates(statistics, Gates(), keep=3, tokens="answer")


def test_questions_that_count_nothing_reach_no_expert():
    """By the statistics of all questions experts 2 and 3 were reached; what ranks has not seen them."""
    norms = np.array([[[9.0, 4.0, 0.0, 0.0]], [[0.0, 0.0, 5.0, 6.0]]])
    statistics = dataclasses.replace(statistics_of(norms), truncated=np.array([0, 1]), skipped=np.array([[0], [50]]))
    gates = Gates(max_unrouted=1)
    with pytest.raises(CheckFailedError, match="ever reached only 2 experts of layer 0, so 3 cannot be chosen by merit"):
        check_gates(statistics, gates, keep=3, weights=np.array([1.0, 0.0]))
    report = check_gates(statistics, gates, keep=2, weights=np.array([0.5, 0.0]))
    assert (report.unrouted, report.chosen_from, report.non_finite, report.truncated) == (0.5, (2,), 0, 0)
    with pytest.raises(CheckFailedError, match=r"were not finite.*; 100\.00% of the questions lost their end"):
        check_gates(statistics, gates, keep=2, weights=np.array([0.0, 1.0]))


def test_gate_for_starved_layers():
    norms = good()
    norms[:, 1, 1:] = 0
    with pytest.raises(CheckFailedError, match=r"top-2 were reached in layers 7; raise .*gates\.max_starved_layers"):
        check_gates(statistics_of(norms, layers=(3, 7)), Gates(max_unrouted=1))
    check_gates(statistics_of(norms, layers=(3, 7)), Gates(max_unrouted=1, max_starved_layers=1))


def test_gate_for_truncated_questions():
    statistics = dataclasses.replace(statistics_of(good()), truncated=np.array([1, 0]))
    with pytest.raises(CheckFailedError, match=r"50\.00% of the questions lost their end to max_tokens 4096"):
        check_gates(statistics, Gates())
    check_gates(statistics, Gates(max_truncated=0.5))


def test_gate_for_a_single_shard():
    with pytest.raises(CheckFailedError, match="2 of 5 questions are measured"):
        check_gates(statistics_of(good(), dataset_size=5), Gates())


def test_all_failures_stand_in_one_message():
    norms = good()
    norms[:, 1, 1:] = 0
    statistics = dataclasses.replace(statistics_of(norms), truncated=np.array([1, 1]))
    with pytest.raises(CheckFailedError) as caught:
        check_gates(statistics, Gates())
    assert all(part in str(caught.value) for part in ("never reached", "top-2", "lost their end"))
    assert "\n" not in str(caught.value)


def test_the_options_need_no_numpy():
    code = "import sys, pruner.ranking_options, pruner.calibration; print('numpy' in sys.modules)"
    root = Path(__file__).parents[3]
    assert (
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root).stdout == "False\n"
    )
