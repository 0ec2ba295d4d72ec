"""Analyze experts: what each expert contributes to correct answers, by teacher forcing the full base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruner.checkpoint import INDEX
from pruner.files import digest_of
from pruner.wording import counted
from pruner.workers import usable_cores
from release.context import Context
from release.stages.prune import skip_base_release
from release.stages.resolve import base_digest, dataset_path, locked_base, locked_files
from release.stages.stage import Stage

if TYPE_CHECKING:
    from pruner.statistics import ExpertStatistics

CONFIG = "config.json"


def statistics_path(context: Context) -> Path:
    """The expert statistics in the work folder."""
    return context.work / "expert_statistics.safetensors"


def _skip(context: Context) -> str | None:
    if reason := skip_base_release(context):
        return reason
    return None if context.prune.analysis else "the manifest pins a drop map"


def _inputs(context: Context) -> Any:
    # Versions of torch and transformers are in the statistics themselves: a new one is no reason to measure for hours again.
    analysis = context.analysis
    return [base_digest(context), locked_files(context)[analysis.dataset.name].sha256, analysis.model_dump(exclude={"gates"})]


def _run(context: Context) -> str:
    from pruner.statistics import write_statistics

    statistics = measure(context)
    write_statistics(statistics_path(context), statistics)
    truncated, skipped = int(statistics.truncated.sum()), int(statistics.skipped.sum())
    measured = counted(len(statistics), "question")
    found = f"{measured} measured, {truncated} truncated, {counted(skipped, 'token measurement')} skipped"
    header = statistics.header
    empty = {"left out": header.left_out, "measured by their answer alone": header.answer_alone}
    return ", ".join([found, *(f"{count} without reasoning {what}" for what, count in empty.items() if count)])


def measure(context: Context, shard: tuple[int, int] = (0, 1)) -> ExpertStatistics:
    """Expert statistics of every n-th question from the i-th on, for a shard (i, n).

    Complete statistics that stand in the work folder already, such as merged shards, are taken when everything that
    determines the numbers is the same.
    """
    from pruner.analysis import analyze
    from pruner.calibration import read_calibration

    analysis = context.analysis
    return analyze(
        context.base_folder,
        read_calibration(dataset_path(context, analysis.dataset), analysis.fields, analysis.without_reasoning),
        records=context.work / "analysis",
        finished=statistics_path(context) if shard == (0, 1) else None,
        max_tokens=analysis.max_tokens,
        dtype=analysis.dtype,
        reply_format=analysis.reply_format,
        **_where(context.options.workers),
        base=_base_digest(context),
        shard=shard,
        offload=context.options.offload,
        progress=context.progress,
    )


def _where(workers: int | None) -> dict[str, Any]:
    """A GPU if there is one; else as many questions side by side as there are cores."""
    import torch

    if torch.cuda.is_available():
        return {"device": "cuda", "workers": 1}
    return {"device": "cpu", "workers": workers or usable_cores()}


def _base_digest(context: Context) -> str:
    """What `pruner.analysis.model.base_digest` gives, from the digests that the resolve stage took already."""
    files = locked_base(context).files
    return digest_of(
        {name: file.sha256 for name, file in files.items() if name.endswith((".safetensors", INDEX)) or name == CONFIG}
    )


STAGE = Stage(
    name="analyze",
    title="analyzing experts",
    run=_run,
    inputs=_inputs,
    outputs=lambda context: (statistics_path(context),),
    skip=_skip,
)
