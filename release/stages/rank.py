"""Rank experts: statistics to drop map, or a pinned map taken as it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruner.base_identity import BaseIdentity, named_base, require_same_base
from pruner.drop_map import DropMap, drop_map_from_keep, read_drop_map, require_fits, with_mtp_of_last
from pruner.errors import InputError
from pruner.families import MTP
from pruner.files import canonical_json, digest_of, sha256_file, write_atomic
from pruner.wording import counted
from release.context import Context
from release.manifest import PinnedFile
from release.reports.ranking import RankingReport, ranking_report
from release.stages.analyze import statistics_path
from release.stages.prune import drop_map_path, plan_of, skip_base_release
from release.stages.resolve import base_digest, dataset_path, file_digest, locked_files
from release.stages.stage import Stage

if TYPE_CHECKING:
    from pruner.ranking import Kept
    from pruner.selection import Selection
    from pruner.statistics import ExpertStatistics, Floats


def report_path(context: Context) -> Path:
    """How settled the map is, and which knobs turned nothing; only of a map that was ranked here."""
    return context.work / "ranking_report.json"


def _inputs(context: Context) -> Any:
    prune = context.prune
    source = file_digest(context, prune.drop_map) or context.made_by("analyze")
    gates = prune.analysis.gates.model_dump() if prune.analysis else None
    known = prune.calibration and [
        locked_files(context)[prune.calibration.dataset.name].sha256,
        prune.calibration.fields.model_dump(mode="json"),
    ]
    return [base_digest(context), source, prune.experts, prune.ranking.model_dump(mode="json"), gates, known]


def _outputs(context: Context) -> tuple[Path, ...]:
    ranked = context.prune.analysis is not None
    return (drop_map_path(context), report_path(context)) if ranked else (drop_map_path(context),)


def _run(context: Context) -> str:
    prune = context.prune
    report = None
    if prune.drop_map:
        drop_map = _pinned(context, prune.drop_map)
    else:
        drop_map, report = _ranked(context)
    require_fits(
        drop_map, context.base.architecture, context.base.layers, prune.drop_map.path if prune.drop_map else "drop map"
    )
    plan_of(context, drop_map)  # a map that keeps another number of experts than the manifest says stops here
    write_atomic(drop_map_path(context), canonical_json(drop_map.envelope(context.base.architecture.experts)))
    experts = f"{context.base.architecture.experts} to {counted(prune.experts, 'expert')}"
    found = f"{experts} in each of {counted(len(drop_map.drop), 'layer')}"
    if report is None:
        return found
    write_atomic(report_path(context), canonical_json(report.model_dump(mode="json")))
    return f"{found}; {report.sentence()}"


def _base_model(context: Context) -> dict[str, Any]:
    """What the map was made for; a rebuild without the manifest takes the base's name from here."""
    return {"name": context.manifest.base.label, "revision": context.manifest.base.revision}


def _pinned(context: Context, pinned: PinnedFile) -> DropMap:
    drop_map = read_drop_map(context.loaded.file(pinned))
    base = context.manifest.base
    if unchecked := require_same_base(named_base(drop_map.provenance), BaseIdentity(base.label, base.revision), pinned.path):
        context.progress.note(unchecked)
    _require_calibration(context, drop_map, pinned.path)
    return replace(drop_map, provenance={**drop_map.provenance, "base_model": _base_model(context)})


def _ranked(context: Context) -> tuple[DropMap, RankingReport]:
    from pruner.ranking import check_gates
    from pruner.selection import kept_experts
    from pruner.statistics import read_statistics

    prune = context.prune
    statistics = read_statistics(statistics_path(context))
    weights, selection = weights_of(context, statistics), selection_of(context)
    gates = check_gates(statistics, context.analysis.gates, prune.experts, prune.ranking.tokens, weights)
    made = map_of(context, kept_experts(statistics, selection, weights), statistics, provenance(context, statistics))
    idle = ("mtp",) if prune.ranking.mtp and not any(layer.startswith(MTP) for layer in context.base.layers) else ()
    return made, ranking_report(statistics, selection, weights, gates, idle)


def selection_of(context: Context) -> Selection:
    """The manifest's ranking, what it keeps, and the expert groups of the base."""
    from pruner.selection import Selection

    groups = context.base.architecture.groups
    return Selection(context.prune.ranking, context.prune.experts, groups.count if groups else None)


def map_of(context: Context, keep: Kept, statistics: ExpertStatistics, origin: dict[str, Any]) -> DropMap:
    """The drop map of what is kept in each measured layer; a multi-token prediction block follows the manifest's choice."""
    layers = [str(layer) for layer in statistics.header.layers]
    made = drop_map_from_keep(keep, layers, context.base.architecture.experts, origin)
    return with_mtp_of_last(made, context.base.layers) if context.prune.ranking.mtp == "same_as_last" else made


def weights_of(context: Context, statistics: ExpertStatistics) -> Floats | None:
    """Weight of each question by its class, or None when all count alike.

    Raises:
        InputError: the ranking names a column or a class that the calibration set does not have.
    """
    from pruner.calibration import read_classes
    from pruner.selection import question_weights

    ranking = context.prune.ranking
    if ranking.class_weights is None:
        return None
    path = dataset_path(context, context.analysis.dataset)
    classes = read_classes(path, context.analysis.fields, ranking.class_weights.column)
    return question_weights(statistics, ranking, classes)


def provenance(context: Context, statistics: ExpertStatistics) -> dict[str, Any]:
    """Where a map that is ranked here comes from."""
    return {
        "base_model": _base_model(context),
        "ranking": context.prune.ranking.model_dump(mode="json", exclude_none=True),
        "statistics": {"sha256": sha256_file(statistics_path(context)), "questions": len(statistics.header.questions)},
        "calibration": {
            "sha256": statistics.header.dataset,
            "questions_digest": _questions_digest(statistics.header.questions),
        },
    }


def _questions_digest(digests: Iterable[str]) -> str:
    """Of a set of questions, in whatever order and file."""
    return digest_of(sorted(digests))


def _require_calibration(context: Context, drop_map: DropMap, where: str) -> None:
    """Hold what the manifest says of a pinned map's calibration set against what the map says itself.

    Raises:
        InputError: the map was made from other questions.
    """
    from pruner.calibration import read_digests

    calibration, named = context.prune.calibration, drop_map.provenance.get("calibration")
    if calibration is None or not isinstance(named, dict):
        return
    path = dataset_path(context, calibration.dataset)
    if named.get("sha256") == sha256_file(path):
        return
    if named.get("questions_digest") != _questions_digest(read_digests(path, calibration.fields)):
        raise InputError(
            f"{where}: was made from other questions than {calibration.dataset.name}; "
            "name its own set in prune.calibration, or remove the key"
        )


STAGE = Stage(
    name="rank",
    title="ranking experts",
    run=_run,
    inputs=_inputs,
    outputs=_outputs,
    skip=skip_base_release,
    needs=("analyze",),
)
