"""Parts of an analysis: one shard of the questions, shards joined, and maps that each leave a fold of the questions out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pruner.drop_map import require_fits
from pruner.errors import CheckFailedError, InputError
from pruner.files import canonical_json, write_atomic
from pruner.folds import seen_questions
from pruner.places import require_replaceable
from release.context import Context
from release.pipeline import run_pipeline
from release.stages.analyze import measure, statistics_path
from release.stages.rank import map_of, provenance, selection_of, weights_of
from release.stages.resolve import locked_files

if TYPE_CHECKING:
    from pruner.statistics import ExpertStatistics

FOLD_RULE = "SHA-256 of the normalised question, as a number, modulo count; the map did not see the questions of its index"


def analyze_shard(context: Context, shard: tuple[int, int], out: Path) -> str:
    """Measure every n-th question of a manifest's calibration set and write their statistics.

    Raises:
        InputError: the manifest measures nothing, or the shard does not fit.
        CheckFailedError: `out` holds statistics of more questions.
    """
    from pruner.statistics import read_statistics

    prune = context.manifest.prune
    if prune is None or prune.analysis is None:
        raise InputError(f"{context.loaded.path}: prune.analysis is missing, so there is nothing to measure")
    require_replaceable(out)
    context.options = replace(context.options, until="resolve")
    run_pipeline(context)
    with suppress(InputError):  # a damaged file is replaced
        if out.exists():
            there = read_statistics(out).header
            same = there.dataset == locked_files(context)[prune.analysis.dataset.name].sha256
            _require_no_more(out, len(there.questions) if same else 0, -(-there.dataset_size // shard[1]))
    return _write(out, measure(context, shard))


def merge_parts(parts: Sequence[Path], out: Path) -> str:
    """Join shards; all of them give the same bytes as one run.

    Raises:
        InputError: a part cannot be read, or they do not belong together.
        CheckFailedError: `out` holds statistics of more questions.
    """
    from pruner.statistics import merge, read_statistics

    require_replaceable(out)
    return _write(out, merge([read_statistics(part) for part in parts]))


def _write(out: Path, statistics: ExpertStatistics) -> str:
    """Write statistics, but never over those of more questions: they are hours of work."""
    from pruner.statistics import read_statistics, write_statistics

    count = len(statistics.header.questions)
    with suppress(InputError):
        if out.exists():
            _require_no_more(out, len(read_statistics(out).header.questions), count)
    digest = write_statistics(out, statistics)
    return f"{digest}  {out}  ({count} of {statistics.header.dataset_size} questions)"


def _require_no_more(out: Path, there: int, count: int) -> None:
    if there > count:
        raise CheckFailedError(f"{out}: holds {there} questions, more than these {count}; remove it or choose another name")


def write_folds(context: Context, count: int) -> list[Path]:
    """Write `count` cross-fitted maps of a manifest whose rank stage has run.

    Question q falls into fold `pruner.folds.fold_of(q, count)`; map i was made without the questions of fold i, so each
    question of an exam can be scored by a variant that did not see it.

    Raises:
        InputError: the map is pinned, or a fold leaves no question.
        CheckFailedError: without the questions of a fold the statistics fail a gate.
    """
    from pruner.ranking import check_gates
    from pruner.selection import kept_experts
    from pruner.stability import fold_weights
    from pruner.statistics import read_statistics

    prune = context.manifest.prune
    if prune is None or prune.analysis is None:
        raise InputError(f"{context.loaded.path}: --folds needs prune.analysis; a pinned map is what it is")
    statistics = read_statistics(statistics_path(context))
    experts, selection = context.base.architecture.experts, selection_of(context)
    paths = []
    for index, weights in enumerate(fold_weights(statistics, count, weights_of(context, statistics))):
        try:
            check_gates(statistics, prune.analysis.gates, prune.experts, prune.ranking.tokens, weights)
        except CheckFailedError as error:
            raise CheckFailedError(f"fold {index} of {count}: {error}") from None
        keep = kept_experts(statistics, selection, weights)
        seen = seen_questions(statistics.header.questions, (index, count))
        origin = provenance(context, statistics)
        origin["statistics"]["questions"] = len(seen)
        origin["fold"] = {"index": index, "count": count, "rule": FOLD_RULE}
        found = map_of(context, keep, statistics, origin)
        require_fits(found, context.base.architecture, context.base.layers, f"fold {index}")
        path = context.work / "folds" / f"drop_map.fold-{index}-of-{count}.json"
        write_atomic(path, canonical_json(found.envelope(experts)))
        paths.append(path)
    return paths
