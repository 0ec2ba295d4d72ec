"""The lock of the release in a work folder, drawn from the records of its stages."""

from __future__ import annotations

import platform
from pathlib import Path

from pruner.drop_map import read_drop_map
from release import __version__
from release.context import Context
from release.lock import Lock, LockedFile, LockedInputs, locked_weights, tensor_data_of
from release.records import read_record
from release.stages.calibrate import imatrix_of
from release.stages.evaluate import protocol_of
from release.stages.prune import build_result, drop_map_path
from release.stages.quantize import read_summaries
from release.stages.resolve import locked_base, locked_files
from release.stages.verify import tensor_digests

MEASURED = ("analyze", "calibrate", "quantize", "eval", "card")
"""Stages whose bytes also depend on the tools and the processor: sums of floating-point numbers."""

UNPUBLISHED = ("quants.json", "build.json", "ranking_report.json")


def draft_lock(context: Context, *, stages: tuple[str, ...] = ("rank", "analyze", "calibrate", "quantize", "eval")) -> Lock:
    """A lock of the weights and of everything that `stages` have made so far."""
    from release.evaluation.protocol import protocol_digest

    outputs: dict[str, LockedFile] = {}
    tensor_data = None
    drop_map = None
    if context.manifest.prune:
        outputs |= locked_weights(build_result(context).files, tensor_digests(context))
        tensor_data = tensor_data_of(outputs)
        drop_map = {layer: list(ids) for layer, ids in read_drop_map(drop_map_path(context)).drop.items()}
    for stage in stages:
        outputs |= _made_by(context, stage)
    inputs = LockedInputs(
        base=locked_base(context),
        drop_map=drop_map,
        protocol=protocol_digest(protocol_of(context)) if context.manifest.eval else None,
        files=locked_files(context),
        tools=_tools(context),
    )
    return Lock(name=context.manifest.name, inputs=inputs, tensor_data=tensor_data, outputs=dict(sorted(outputs.items())))


def _made_by(context: Context, stage: str) -> dict[str, LockedFile]:
    record = read_record(context.work, stage)
    if record is None or (stage == "calibrate" and imatrix_of(context) is None):
        return {}
    # The map's own digest is among the inputs; its file names the statistics, so it is as measured as they are.
    measured = stage in MEASURED or (stage == "rank" and context.manifest.prune is not None and context.manifest.prune.analysis)
    made_with = _made_with(context, stage) if measured else None
    summaries = read_summaries(context) if stage == "quantize" else {}
    tensor_data = {f"gguf/{context.gguf_file(name).name}": summary["tensor_digest"] for name, summary in summaries.items()}
    return {
        path: LockedFile(sha256=output.sha256, size=output.size, tensor_data=tensor_data.get(path), made_with=made_with)
        for path, output in record.outputs.items()
        if path not in UNPUBLISHED
    }


def _made_with(context: Context, stage: str) -> dict[str, str]:
    """What the bytes of a measured output depend on beside its inputs."""
    uses_torch = context.manifest.prune is not None and context.manifest.prune.analysis is not None
    versions: dict[str, str] = {"processor": processor()}
    if stage in ("analyze", "rank") or (stage == "card" and uses_torch):
        versions |= _torch_versions(context)
    if stage in ("calibrate", "quantize", "eval", "card") and context.manifest.gguf:
        toolchain = context.toolchain
        versions |= {"llama.cpp": toolchain.commit, "compiler": toolchain.compiler, "flags": " ".join(toolchain.flags)}
    return versions


def _torch_versions(context: Context) -> dict[str, str]:
    from pruner.statistics import read_statistics
    from release.stages.analyze import statistics_path

    return dict(read_statistics(statistics_path(context)).header.libraries)


def processor() -> str:
    """The kind of processor: its model where the system tells, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{platform.machine()} {model}".strip()


def _tools(context: Context) -> dict[str, str]:
    tools = {"moe-release": __version__}
    if context.manifest.gguf:
        tools["llama.cpp"] = context.toolchain.commit
    if context.manifest.eval:
        protocol = protocol_of(context)
        tools |= {"lm-eval": protocol.lm_eval, "task": f"{protocol.task.name} {protocol.task.version}"}
    return tools
