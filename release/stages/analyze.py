"""Analyze experts: what each expert contributes to correct answers, by teacher forcing the full base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruner.checkpoint import INDEX
from pruner.errors import InputError
from pruner.files import digest_of, sha256_file
from pruner.wording import counted
from pruner.workers import usable_cores
from release.context import Context
from release.gguf.side_by_side import free_memory
from release.records import read_record
from release.stages.prune import skip_base_release
from release.stages.resolve import base_digest, dataset_path, locked_base, locked_files
from release.stages.stage import Stage

if TYPE_CHECKING:
    from pruner.analysis.finished import Finished
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
    other = {
        "without reasoning left out": header.left_out,
        "without reasoning measured by their answer alone": header.answer_alone,
        "unusable left out": header.unusable,
    }
    return ", ".join([found, *(f"{count} {what}" for what, count in other.items() if count)])


def measure(context: Context, shard: tuple[int, int] = (0, 1)) -> ExpertStatistics:
    """Expert statistics of every n-th question from the i-th on, for a shard (i, n).

    Complete statistics that stand in the work folder already, such as merged shards, are taken when everything that
    determines the numbers is the same.

    Raises:
        InputError: statistics that were not made here stand there, and are others.
    """
    from pruner.analysis import analyze
    from pruner.calibration import read_calibration

    analysis = context.analysis
    path = dataset_path(context, analysis.dataset)
    return analyze(
        context.base_folder,
        read_calibration(path, analysis.fields, analysis.without_reasoning, analysis.unusable),
        records=context.work / "analysis",
        finished=_finished(context) if shard == (0, 1) else None,
        max_tokens=analysis.max_tokens,
        dtype=analysis.dtype,
        reply_format=analysis.reply_format,
        unusable=analysis.unusable,
        **_where(context.options.workers),
        base=_base_digest(context),
        shard=shard,
        offload=context.options.offload,
        memory=free_memory(),
        progress=context.progress,
    )


def _finished(context: Context) -> Finished:
    """The work folder's statistics.  Those that this stage made may be replaced, and what cannot be read after it did."""
    from pruner.analysis.finished import Finished
    from pruner.statistics import read_statistics

    path, record = statistics_path(context), read_record(context.work, STAGE.name)
    made = record.digests().get(path.name) if record else None
    if made is None or not path.exists():
        return Finished(path)
    if sha256_file(path) == made:
        return Finished(path, replaceable=True)
    try:
        read_statistics(path)
    except InputError:
        return Finished(path, replaceable=True)
    return Finished(path)


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
