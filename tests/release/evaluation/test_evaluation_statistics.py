"""Statistics against published values, scipy, and counting by hand."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from release.evaluation.stats import (
    chance_tail,
    clustered_difference,
    clustered_interval,
    clustered_mean,
    mcnemar_exact,
    minimum_detectable_difference,
    paired_randomization,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        (159, 198, 0.742, 0.852),
        (162, 198, 0.759, 0.866),
        (81, 263, 0.2553, 0.3662),  # Newcombe (1998), table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_equals_published_values(correct: int, total: int, low: float, high: float):
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=6e-4)


@given(st.integers(1, 400), st.data())
def test_wilson_bounds_solve_the_score_equation(total: int, data: st.DataObject):
    correct = data.draw(st.integers(0, total))
    for bound in wilson_interval(correct, total):
        distance = abs(correct / total - bound)
        assert distance == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / total), abs=1e-6)


@pytest.mark.parametrize(("only_a", "only_b", "p"), [(3, 0, 0.25), (0, 0, 1.0), (6, 1, 0.125), (1, 9, 22 / 1024), (5, 5, 1.0)])
def test_mcnemar_exact_equals_hand_computed_values(only_a: int, only_b: int, p: float):
    assert mcnemar_exact(only_a, only_b) == pytest.approx(p)
    assert mcnemar_exact(only_b, only_a) == pytest.approx(p)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [(121, 59, 0.000004), (70, 59, 0.378688), (80, 59, 0.089452), (30, 60, 0.00206), (10, 30, 0.002221), (10, 10, 1.0)],
)
def test_mcnemar_exact_equals_published_values(only_a: int, only_b: int, p: float):
    """Computed by Vassar College's on-line calculator; statsmodels tests its own `mcnemar(exact=True)` with them."""
    assert mcnemar_exact(only_a, only_b) == pytest.approx(p, abs=6e-7)


@given(st.integers(0, 7), st.integers(0, 7))
def test_mcnemar_exact_equals_counting_all_coin_tosses(only_a: int, only_b: int):
    total = only_a + only_b
    distance = abs(only_a - total / 2)
    tosses = [sum(each) for each in itertools.product((0, 1), repeat=total)]
    expected = sum(abs(heads - total / 2) >= distance for heads in tosses) / len(tosses)
    assert mcnemar_exact(only_a, only_b) == pytest.approx(expected)


def test_minimum_detectable_difference_for_gpqa_diamond():
    found = minimum_detectable_difference(198, 0.1)
    assert found == pytest.approx(0.063, abs=5e-4)
    needed = (1.959964 * math.sqrt(0.1) + 0.841621 * math.sqrt(0.1 - found**2)) ** 2 / found**2
    assert needed == pytest.approx(198, rel=1e-4)


@pytest.mark.parametrize(
    ("needed", "discordance", "difference"),
    [
        (23, 0.50, 0.40),  # powerandsamplesize.com, "McNemar's Z-test, 2-sided equality": p01 = 0.45, p10 = 0.05
        (155, 0.45, 0.15),  # clinicaltrials-tools.vercel.app, "McNemar's test sample size calculator"
    ],
)
def test_minimum_detectable_difference_equals_published_sample_sizes(needed: int, discordance: float, difference: float):
    assert (
        minimum_detectable_difference(needed, discordance)
        <= difference
        < minimum_detectable_difference(needed - 1, discordance)
    )


def test_minimum_detectable_difference_has_the_stated_power():
    """The exact test on simulated pairs finds such a difference in about 80 of 100 runs (the formula is asymptotic)."""
    import random

    total, discordance = 1000, 0.1
    difference = minimum_detectable_difference(total, discordance)
    draw = random.Random(1)
    found = 0
    for _ in range(400):
        only_a = only_b = 0
        for _ in range(total):
            value = draw.random()
            only_a += value < (discordance + difference) / 2
            only_b += (discordance + difference) / 2 <= value < discordance
        found += mcnemar_exact(only_a, only_b) < 0.05
    assert 0.72 < found / 400 < 0.86


def test_few_questions_can_show_no_difference():
    assert minimum_detectable_difference(10, 0.1) is None


def test_chance_tail_of_five_of_ten():
    assert chance_tail(5, 10) == pytest.approx(0.0781, abs=5e-5)
    assert chance_tail(0, 10) == pytest.approx(1.0)
    assert chance_tail(3, 3, p=0.5) == pytest.approx(0.125)


def test_clustered_error_of_single_repeats_is_the_usual_one():
    mean, error = clustered_mean([[1.0], [0.0], [1.0], [1.0]])
    assert mean == 0.75
    assert error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))


def test_equal_repeats_add_no_certainty():
    assert clustered_mean([[1.0] * 5, [0.0] * 5, [1.0] * 5]) == pytest.approx(clustered_mean([[1.0], [0.0], [1.0]]))


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=4), min_size=2, max_size=20))
def test_clustered_error_equals_the_sandwich_of_a_regression_on_a_constant(scores: list[list[int]]):
    """Liang and Zeger's estimator in matrices, as any package of robust regression computes it (CR0)."""
    import numpy as np

    values = np.array([value for repeats in scores for value in repeats], dtype=float)
    question = np.array([place for place, repeats in enumerate(scores) for _ in repeats])
    constant = np.ones((len(values), 1))
    bread = np.linalg.inv(constant.T @ constant)
    coefficient = bread @ constant.T @ values
    residuals = values - constant @ coefficient
    sums = [constant[question == place].T @ residuals[question == place] for place in range(len(scores))]
    covariance = bread @ sum(np.outer(each, each) for each in sums) @ bread
    mean, error = clustered_mean(scores)
    assert mean == pytest.approx(coefficient[0])
    assert error == pytest.approx(np.sqrt(covariance[0, 0]), abs=1e-9)


def test_clustered_error_is_the_spread_of_the_mean_over_exams_drawn_again():
    import random

    draw = random.Random(3)

    def exam() -> list[list[float]]:
        skills = [draw.betavariate(0.5, 0.5) for _ in range(100)]
        return [[float(draw.random() < skill) for _ in range(4)] for skill in skills]

    found = [clustered_mean(exam()) for _ in range(400)]
    means = [mean for mean, _ in found]
    center = sum(means) / len(means)
    spread = math.sqrt(sum((mean - center) ** 2 for mean in means) / len(means))
    assert sum(error for _, error in found) / len(found) == pytest.approx(spread, rel=0.1)
    assert spread > 1.3 * math.sqrt(0.25 / 400), "repeats of one question are not independent answers"


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=10))
def test_paired_randomization_equals_scipys_permutation_test(differences: list[int]):
    import numpy as np
    from scipy.stats import permutation_test

    values = np.array(differences, dtype=float)
    exact = permutation_test((values, np.zeros(len(values))), lambda a, b: (a - b).sum(), permutation_type="samples")
    assert paired_randomization(differences) == pytest.approx(exact.pvalue)


def test_paired_randomization_equals_fishers_own_value_for_darwins_plants():
    """R. A. Fisher, The Design of Experiments, section 21: 1726 of 32,768 sums are at least as far off, on both sides."""
    eighths = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    assert paired_randomization(eighths) == pytest.approx(1726 / 2**15)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 10))
def test_paired_randomization_of_one_repeat_is_mcnemars_test(only_a: int, only_b: int, same: int):
    assert paired_randomization([-1] * only_a + [1] * only_b + [0] * same) == pytest.approx(mcnemar_exact(only_a, only_b))


@given(st.integers(1, 300), st.data())
def test_clustered_interval_of_one_repeat_is_wilsons(total: int, data: st.DataObject):
    correct = data.draw(st.integers(0, total))
    scores = [[1.0]] * correct + [[0.0]] * (total - correct)
    assert clustered_interval(scores) == pytest.approx(wilson_interval(correct, total), abs=1e-9)


def test_repeats_that_agree_count_once_and_those_that_do_not_at_most_as_often_as_they_are():
    scores = [[1.0] * 5] * 15 + [[0.0] * 5] * 5
    assert clustered_interval(scores) == pytest.approx(wilson_interval(15, 20))
    assert clustered_interval([[1.0, 0.0]] * 10) == pytest.approx(wilson_interval(5, 10))  # no error to be seen: one each
    assert clustered_interval([[1.0, 0.0]] * 9 + [[1.0, 1.0]]) == pytest.approx(wilson_interval(11, 20))


def test_a_clustered_interval_covers_as_often_as_it_says():
    import random

    draw = random.Random(5)
    covered = 0
    for _ in range(500):
        skills = [draw.betavariate(1.6, 0.4) for _ in range(120)]
        low, high = clustered_interval([[float(draw.random() < skill) for _ in range(4)] for skill in skills])
        covered += low <= 0.8 <= high
    assert 0.92 < covered / 500 < 0.98


def test_a_clustered_difference_has_the_stated_power():
    """A run that is better by the smallest difference to be shown is found better in about 80 of 100 comparisons."""
    import random

    draw = random.Random(7)
    questions, repeats, found = 150, 4, 0
    errors, shown = [], 0.073
    for _ in range(300):
        skills = [draw.uniform(0.1, 0.9) for _ in range(questions)]
        pairs = [
            (sum(draw.random() < skill for _ in range(repeats)), sum(draw.random() < skill + shown for _ in range(repeats)))
            for skill in skills
        ]
        differences = [b - a for a, b in pairs]
        errors.append(clustered_difference([each / repeats for each in differences]))
        found += paired_randomization(differences) < 0.05
    detectable = sum(each[1] or 0 for each in errors) / len(errors)
    assert detectable == pytest.approx(2.801585 * sum(each[0] for each in errors) / len(errors))
    assert detectable == pytest.approx(shown, rel=0.15)
    assert 0.68 < found / 300 < 0.9
    assert clustered_difference([0.5] * 10) == (0.0, None)


@pytest.mark.parametrize(("correct", "total"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(correct: int, total: int):
    with pytest.raises(ValueError, match="no sample"):
        wilson_interval(correct, total)
    with pytest.raises(ValueError, match="no sample"):
        chance_tail(correct, total)
