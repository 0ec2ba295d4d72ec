"""Statistics of scores: pure functions, each with the source of its formula."""

from __future__ import annotations

import math
from collections.abc import Sequence


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a share, without continuity correction.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927) 209-212.

    Args:
        correct: successes.
        total: trials, at least 1.
        confidence: e.g. 0.95.

    Returns:
        Lower and upper bound, as shares of 1.

    Raises:
        ValueError: the counts are no counts of a sample.
    """
    from scipy.stats import binomtest

    _require_sample(correct, total)
    interval = binomtest(correct, total).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided p-value that two systems differ, from the questions that only one of them answered correctly.

    Under the null hypothesis each such question is a fair coin: an exact binomial test, p = 1 when there is none.
    Source: Q. McNemar, Psychometrika 12 (1947) 153-157; exact form: A. L. Edwards, Psychometrika 13 (1948) 185-187.
    """
    from scipy.stats import binomtest

    if only_a < 0 or only_b < 0:
        raise ValueError(f"counts may not be negative: {only_a}, {only_b}")
    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


def minimum_detectable_difference(total: int, discordance: float, power: float = 0.8, confidence: float = 0.95) -> float | None:
    """Smallest difference of two scores that a paired test of `total` questions shows with probability `power`.

    Solves n = (z_a sqrt(p) + z_b sqrt(p - d^2))^2 / d^2 for d, with p the discordance, z_a = z(1 - (1 - confidence) / 2) and
    z_b = z(power).  Source: R. J. Connor, "Sample size for testing differences in proportions for the paired-sample design",
    Biometrics 43 (1987) 207-211.

    Args:
        total: questions that both systems answered.
        discordance: expected share of questions that exactly one of them answers correctly, in (0, 1].
        power: of the test.
        confidence: 1 minus the test's level.

    Returns:
        The difference as a share of 1; None when even a difference of the whole discordance would not show.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    if total < 1 or not 0 < discordance <= 1:
        raise ValueError(f"no sample: {total} questions, discordance {discordance}")
    level, strength = float(norm.ppf(1 - (1 - confidence) / 2)), float(norm.ppf(power))

    def missing(difference: float) -> float:
        spread = level * math.sqrt(discordance) + strength * math.sqrt(max(0.0, discordance - difference**2))
        return spread - difference * math.sqrt(total)

    largest = discordance  # all discordant questions on one side
    return None if missing(largest) > 0 else float(brentq(missing, 0.0, largest, xtol=1e-12))


def paired_randomization(differences: Sequence[int]) -> float:
    """Two-sided p-value that two systems differ, from how many more of a question's repeats one of them answered correctly.

    Under the null hypothesis each question's difference is as likely to have the other sign.  The distribution of their sum
    over all signs is computed exactly.  With one repeat this is `mcnemar_exact`.
    Source: R. A. Fisher, The Design of Experiments (1935), section 21.

    Args:
        differences: of each question, in whole repeats.
    """
    ways = {0: 1}
    for size in map(abs, filter(None, differences)):
        more: dict[int, int] = {}
        for total, count in ways.items():
            for sign in (-size, size):
                more[total + sign] = more.get(total + sign, 0) + count
        ways = more
    distance = abs(sum(differences))
    return sum(count for total, count in ways.items() if abs(total) >= distance) / sum(ways.values())


def clustered_difference(
    differences: Sequence[float], power: float = 0.8, confidence: float = 0.95
) -> tuple[float, float | None]:
    """Standard error of a mean difference of two runs with repeats, and the smallest difference that it lets show.

    The error is that of the questions' mean differences, (z(1 - (1 - confidence) / 2) + z(power)) times it what shows with
    probability `power`.  Source: E. Miller, "Adding error bars to evals" (arXiv:2411.00640), sections 4 and 5.

    Returns:
        Both as shares of 1; no smallest difference where all questions differ by the same.
    """
    from scipy.stats import norm

    error = clustered_mean([[each] for each in differences])[1]
    factor = float(norm.ppf(1 - (1 - confidence) / 2) + norm.ppf(power))
    return error, factor * error or None


def chance_tail(correct: int, total: int, p: float = 0.25) -> float:
    """Probability that guessing alone gives `correct` or more of `total` right: the upper tail of Binomial(total, p)."""
    from scipy.stats import binom

    _require_sample(correct, total)
    return float(binom.sf(correct - 1, total, p))


def clustered_mean(scores: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Mean of all scores and its standard error, where `scores[q]` are the repeats of question q and depend on each other.

    The variance is the sum over questions of the squared sum of their deviations, over the squared number of scores.
    Source: E. Miller, "Adding error bars to evals" (arXiv:2411.00640), section 2.2; the CR0 estimator of K.-Y. Liang and
    S. L. Zeger, Biometrika 73 (1986) 13-22.

    Returns:
        Mean and standard error; with one repeat each, the error is that of independent questions.
    """
    count = sum(len(repeats) for repeats in scores)
    if count == 0:
        raise ValueError("no scores")
    mean = math.fsum(value for repeats in scores for value in repeats) / count
    variance = math.fsum(math.fsum(value - mean for value in repeats) ** 2 for repeats in scores) / count**2
    return mean, math.sqrt(variance)


def clustered_interval(scores: Sequence[Sequence[float]], confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a share whose answers depend on each other within a question.

    Wilson's interval for as many independent answers as would give the clustered standard error, at most all of them; with one
    repeat it is `wilson_interval`.  Where no error can be seen, every question counts once.
    Source: N. Dean and M. Pagano, "Evaluating confidence interval methods for binomial proportions in clustered surveys",
    J. Survey Statistics and Methodology 3 (2015) 484-503.

    Args:
        scores: 0 or 1 for each repeat of each question.
        confidence: e.g. 0.95.
    """
    from scipy.stats import norm

    mean, error = clustered_mean(scores)
    size = min(mean * (1 - mean) / error**2, sum(map(len, scores))) if error else len(scores)
    z = float(norm.ppf(1 - (1 - confidence) / 2))
    center = mean + z**2 / (2 * size)
    spread = z * math.sqrt(mean * (1 - mean) / size + z**2 / (4 * size**2))
    low, high = ((center + sign * spread) / (1 + z**2 / size) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


def _require_sample(correct: int, total: int) -> None:
    if not (total >= 1 and 0 <= correct <= total):
        raise ValueError(f"{correct} of {total} is no sample")
