"""Which experts a ranking keeps: the order of its method, questions weighted by their class, with floors, pins and groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pruner.errors import InputError
from pruner.ranking import Kept, best_by, keep_experts, merits, order_of, ranking_totals
from pruner.ranking_options import AnyRanking, CoverageRanking
from pruner.statistics import ExpertStatistics, Floats, Header
from pruner.totals import Totals


@dataclass(frozen=True)
class Selection:
    """A ranking and how much of it is kept."""

    ranking: AnyRanking
    keep: int
    """Experts that stay in each layer."""
    groups: int | None = None
    """Expert groups of the base's router in each layer; None: it has none."""


def question_weights(statistics: ExpertStatistics, ranking: AnyRanking, classes: Mapping[str, str] | None) -> Floats | None:
    """Weight [Q] of each question, or None when all count alike.

    Args:
        statistics: whose questions are weighted.
        ranking: has the weight of each class.
        classes: class of each question by its digest, from `pruner.calibration.read_classes`.

    Raises:
        InputError: a question has no class, a class that is named has no question, or every weight is zero.
    """
    if ranking.class_weights is None:
        return None
    named, known = ranking.class_weights.weights, classes or {}
    if missing := [digest for digest in statistics.header.questions if digest not in known]:
        raise InputError(f"class_weights: question {missing[0][:16]} has no class; rank with the set that was measured")
    found = [known[digest] for digest in statistics.header.questions]
    if unknown := sorted(set(named) - set(found)):
        raise InputError(
            f"class_weights: no question is of class {unknown[0]!r}; the classes are {', '.join(sorted(set(found)))}"
        )
    weights = np.asarray([named.get(name, 1.0) for name in found], dtype=np.float64)
    if not weights.any():
        raise InputError("class_weights: every question has the weight 0, so nothing can be ranked")
    return weights


def kept_experts(statistics: ExpertStatistics, selection: Selection, weights: Floats | None = None) -> Kept:
    """The experts to keep in each layer: pins, then floors, then the best of the method's order, until there are enough.

    With expert groups the same is done within each group, or whole groups are kept.

    Args:
        statistics: of a calibration set.
        selection: method, floors, pins and groups, and how many to keep.
        weights: what `question_weights` returned.

    Raises:
        InputError: the number to keep does not fit, or a layer's floor and pins are more, or name what does not exist, or more
            experts are to be protected than there are.
    """
    found = ranking_totals(statistics, selection.ranking, None if weights is None else weights[None])
    return kept_of(found[0], statistics.header, selection)


def kept_of(found: Totals, header: Header, selection: Selection) -> Kept:
    """The same from totals over the questions; see `kept_experts`."""
    ranking, experts = selection.ranking, header.experts
    if isinstance(ranking, CoverageRanking) and ranking.protect > experts:
        raise InputError(f"ranking.protect: {ranking.protect} experts cannot be protected, a layer has {experts}; lower it")
    if selection.groups is None:
        if ranking.groups is not None:
            raise InputError("ranking.groups: the base's router has no expert groups; remove the key")
        forced = _forced(found, header, ranking, selection.keep)
        return keep_experts(order_of(merits(found, ranking)), selection.keep, forced)
    return (_whole_groups if ranking.groups == "whole" else _even_groups)(found, header, selection, selection.groups)


def _even_groups(found: Totals, header: Header, selection: Selection, groups: int) -> Kept:
    """As many experts of each group."""
    if selection.keep % groups:
        raise InputError(
            f"prune.experts {selection.keep} cannot be spread evenly over the base's {groups} expert groups; "
            f"keep a multiple of {groups}, or set ranking.groups to whole"
        )
    size, keep = header.experts // groups, selection.keep // groups
    ordered = order_of(merits(found, selection.ranking))
    forced = _forced(found, header, selection.ranking, selection.keep)
    kept = []
    for row, layer in enumerate(ordered):
        chosen: list[int] = []
        for group in range(groups):
            pinned = [expert for expert in forced[row] if expert // size == group]
            if len(pinned) > keep:
                raise InputError(
                    f"ranking: floor and pins of layer {header.layers[row]} ask for {len(pinned)} experts of "
                    f"expert group {group}, which keeps {keep}; lower them"
                )
            rest = [expert for expert in layer if expert // size == group and expert not in pinned]
            chosen += [*pinned, *rest[: keep - len(pinned)]]
        kept.append(tuple(sorted(chosen)))
    return tuple(kept)


def _whole_groups(found: Totals, header: Header, selection: Selection, groups: int) -> Kept:
    """The groups with the largest sums of what experts are ranked by; groups with forced experts come first."""
    size = header.experts // groups
    if selection.keep % size:
        raise InputError(
            f"prune.experts {selection.keep} is no number of whole expert groups of {size} experts; "
            f"keep a multiple of {size}, or set ranking.groups to even"
        )
    first, second = (merit.reshape(-1, groups, size).sum(axis=-1) for merit in merits(found, selection.ranking))
    forced = _forced(found, header, selection.ranking, selection.keep)
    wanted = {row: sorted({expert // size for expert in ids}) for row, ids in forced.items()}
    for row, ids in wanted.items():
        if len(ids) > selection.keep // size:
            raise InputError(
                f"ranking: floor and pins of layer {header.layers[row]} ask for {len(ids)} expert groups, prune.experts keeps "
                f"{selection.keep // size}; lower them"
            )
    kept = keep_experts(order_of((first, second)), selection.keep // size, wanted)
    return tuple(tuple(group * size + place for group in layer for place in range(size)) for layer in kept)


def _forced(found: Totals, header: Header, ranking: AnyRanking, keep: int) -> dict[int, tuple[int, ...]]:
    """For each row of the order, the experts that floors and pins keep."""
    layers, experts = header.layers, header.experts
    floors = ranking.floors
    counts: Mapping[int, int] = {}
    if floors is not None:
        counts = floors.experts if isinstance(floors.experts, dict) else dict.fromkeys(layers, floors.experts)
    pins = ranking.pins or {}
    for name, asked in (("floors", counts), ("pins", pins)):
        if unknown := sorted(set(asked) - set(layers)):
            raise InputError(f"ranking.{name}: the base has no MoE layer {unknown[0]}")
    best = best_by(found, floors.by) if floors is not None else ()
    forced: dict[int, tuple[int, ...]] = {}
    for row, layer in enumerate(layers):
        if bad := [expert for expert in pins.get(layer, ()) if expert >= experts]:
            raise InputError(f"ranking.pins: layer {layer} has experts 0 to {experts - 1}, not {bad[0]}")
        floor = best[row][: counts[layer]] if layer in counts else ()
        forced[row] = tuple(dict.fromkeys((*pins.get(layer, ()), *floor)))
        if len(forced[row]) > keep or counts.get(layer, 0) > keep:
            asked_for = max(len(forced[row]), counts.get(layer, 0))
            raise InputError(
                f"ranking: floor and pins of layer {layer} ask for {asked_for} experts, prune.experts keeps {keep}; lower them"
            )
    return forced
