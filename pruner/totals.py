"""Totals over questions, which are all that the rankings look at: one pass over the statistics, one question at a time.

The bootstrap, cross-fitted maps and class weights only change how much each question counts.  So one pass makes the totals for
many weightings of the questions at once, and memory holds W x L x E numbers whatever the number of questions is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pruner.packed_sums import Floats, stored_norms
from pruner.statistics import ExpertStatistics, Scope


@dataclass(frozen=True, eq=False)
class Totals:
    """Sums over the questions, each times its weight; all are [L, E]."""

    norms: Floats
    """Σ‖weight·output‖₂."""
    counts: Floats
    """Tokens that were routed to the expert."""
    protected: Floats
    """Questions that have the expert among their `protect` strongest ones."""


def totals(
    statistics: ExpertStatistics, tokens: Scope, protect: Sequence[int] = (1,), weights: Floats | None = None
) -> list[list[Totals]]:
    """The totals for each row of `weights` and each number of protected experts.

    Args:
        statistics: of a calibration set.
        tokens: which tokens count.
        protect: P numbers of experts that each question protects in each layer.
        weights: [W, Q], weight of each question; None: one row in which all count once.

    Returns:
        result[w][p].
    """
    rows = np.ones((1, len(statistics))) if weights is None else weights
    shape = (len(rows), len(statistics.header.layers), statistics.header.experts)
    norms, counts = np.zeros(shape), np.zeros(shape)
    protected = np.zeros((len(protect), *shape))
    for place, question in enumerate(statistics):
        used = np.flatnonzero(rows[:, place])
        share = rows[used, place, None, None]
        sums = question.scope(tokens)
        norm = stored_norms(sums)
        norms[used] += share * norm
        counts[used] += share * sums.count
        rank = _places(norm)
        for number, most in enumerate(protect):
            protected[number, used] += share * ((rank < most) & (norm > 0))
    return [[Totals(norms[row], counts[row], each[row]) for each in protected] for row in range(len(rows))]


def _places(norms: Floats) -> NDArray[np.intp]:
    """Place of each expert in its layer, from 0, by norm; ties go to the lower index."""
    return np.argsort(np.argsort(-norms, axis=-1, kind="stable"), axis=-1, kind="stable")
