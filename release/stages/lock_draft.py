"""The lock of the release in a work folder, drawn from the records of its stages."""

from __future__ import annotations

from pruner.drop_map import read_drop_map
from release import __version__
from release.card.pictures.canvas import libraries
from release.context import Context
from release.lock import VARYING, Lock, LockedFile, LockedInputs, locked_weights, tensor_data_of
from release.processes import processor
from release.records import read_record
from release.stages.calibrate import imatrix_of
from release.stages.evaluate import evidence_of, evidence_path, protocol_of
from release.stages.prune import build_result, drop_map_path
from release.stages.quality import wants_quality
from release.stages.quantize import read_summaries
from release.stages.resolve import locked_base, locked_files
from release.stages.verify import tensor_digests

MEASURED = ("analyze", "calibrate", "quantize", "quality", "eval", "card")
"""Stages whose bytes also depend on the tools and the processor: sums of floating-point numbers."""

PICTURES = "card/pictures/"
"""Their bytes depend on what draws them too: with another matplotlib they are not comparable, and no fault."""

DRAFTED = ("rank", "analyze", "calibrate", "quantize", "quality", "eval")
"""Stages before the card."""

UNPUBLISHED = ("quants.json", "build.json", "ranking_report.json")


def draft_lock(context: Context, *, stages: tuple[str, ...] = DRAFTED) -> Lock:
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
        files={**locked_files(context), **_base_quants(context)},
        tools=_tools(context),
    )
    return Lock(name=context.manifest.name, inputs=inputs, tensor_data=tensor_data, outputs=dict(sorted(outputs.items())))


def _base_quants(context: Context) -> dict[str, LockedFile]:
    """The base's GGUFs that quants were cut or projectors copied from, by address; compared with the manifest's digests."""
    record = read_record(context.work, "quantize")
    if context.manifest.gguf is None or record is None:
        return {}
    origins = [summary["cut_from"] for summary in read_summaries(context).values() if "cut_from" in summary]
    copied = {
        source.label: LockedFile(sha256=made.sha256, size=made.size)
        for source in context.gguf.mmproj
        if (made := record.outputs.get(f"gguf/{source.name}")) is not None
    }
    return copied | {
        label: LockedFile(sha256=sha256, size=size)
        for origin in origins
        for (label, sha256), size in zip(origin["files"].items(), origin["sizes"], strict=True)
    }


def _made_by(context: Context, stage: str) -> dict[str, LockedFile]:
    record = read_record(context.work, stage)
    if record is None or (stage == "calibrate" and imatrix_of(context) is None):
        return {}
    if stage == "quality" and not wants_quality(context):
        return {}
    # The map's own digest is among the inputs; its file names the statistics, so it is as measured as they are.
    measured = stage in MEASURED or (stage == "rank" and context.manifest.prune is not None and context.manifest.prune.analysis)
    made_with = _made_with(context, stage) if measured else None
    elsewhere = answered_elsewhere(context) if stage == "eval" else {}
    summaries = read_summaries(context) if stage == "quantize" else {}
    files = {f"gguf/{file['name']}": (each, file) for each in summaries.values() for file in each.get("files", ())}
    tensor_data = {path: file["tensor_digest"] for path, (_, file) in files.items()}
    cut_from = {path: each["cut_from"]["label"] for path, (each, _) in files.items() if "cut_from" in each}
    sources = context.gguf.mmproj if stage == "quantize" else []
    copied_from = {f"gguf/{source.name}": source.label for source in sources}
    return {
        path: LockedFile(
            sha256=output.sha256,
            size=output.size,
            tensor_data=tensor_data.get(path),
            cut_from=cut_from.get(path),
            copied_from=copied_from.get(path),
            made_with=elsewhere.get(path) or _tools_of(path, made_with, of_the_base=path in cut_from or path in copied_from),
            varies=VARYING.fullmatch(path) is not None or None,
        )
        for path, output in record.outputs.items()
        if path not in UNPUBLISHED
    }


def _tools_of(path: str, made_with: dict[str, str] | None, *, of_the_base: bool) -> dict[str, str] | None:
    """What one file depends on: the bytes of a cut or a copy are the base's, a picture's depend on what draws it too.

    Seconds depend on more than could be named.
    """
    if of_the_base or VARYING.fullmatch(path):
        return None
    return {**(made_with or {}), **libraries()} if path.startswith(PICTURES) else made_with


def _made_with(context: Context, stage: str) -> dict[str, str]:
    """What the bytes of a measured output depend on beside its inputs."""
    uses_torch = context.manifest.prune is not None and context.manifest.prune.analysis is not None
    versions: dict[str, str] = {"processor": processor()}
    if stage in ("analyze", "rank") or (stage == "card" and uses_torch):
        versions |= _torch_versions(context)
    if stage in ("calibrate", "quantize", "quality", "eval", "card") and context.uses_llama_cpp:
        toolchain = context.toolchain
        versions |= {"llama.cpp": toolchain.commit, "compiler": toolchain.compiler, "flags": " ".join(toolchain.flags)}
        versions |= _converter(context)
        versions |= {} if not context.gguf.quantized or context.self_test.bit_exact else {"golden self-test": "not bit-exact"}
    return versions


def answered_elsewhere(context: Context) -> dict[str, dict[str, str]]:
    """Evidence whose servers somebody else ran, with what is known of them; their processor is not."""
    runs = {evidence_path(context, quant): evidence for quant, evidence in evidence_of(context).items()}
    return {
        path.relative_to(context.work).as_posix(): {"processor": "elsewhere", "llama.cpp": evidence.toolchain_commit}
        for path, evidence in runs.items()
        if evidence.unverified
    }


def _torch_versions(context: Context) -> dict[str, str]:
    from pruner.statistics import read_statistics
    from release.stages.analyze import statistics_path

    return dict(read_statistics(statistics_path(context)).header.libraries)


def _tools(context: Context) -> dict[str, str]:
    tools = {"moe-release": __version__}
    if context.uses_llama_cpp:
        tools["llama.cpp"] = context.toolchain.commit
        tools |= _converter(context)
    if context.manifest.gguf and context.manifest.gguf.quantized:
        tools["golden self-test"] = "bit-exact" if context.self_test.bit_exact else "not bit-exact"
    if context.manifest.eval:
        protocol = protocol_of(context)
        tools |= {"lm-eval": protocol.lm_eval, "task": f"{protocol.task.name} {protocol.task.version}"}
    return tools


def _converter(context: Context) -> dict[str, str]:
    """The code that converted the weights, where any of it did: two trees of one commit may have been changed differently."""
    gguf = context.manifest.gguf
    code = context.toolchain.converter_code if gguf and (gguf.quantized or gguf.quality) else None
    return {"converter": code} if code else {}
