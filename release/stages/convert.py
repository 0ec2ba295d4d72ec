"""Convert: safetensors to one unquantized GGUF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from release.context import Context
from release.stages.quant_recipes import check_tensor_types
from release.stages.resolve import base_digest
from release.stages.stage import Stage


def source_gguf(context: Context) -> Path:
    """The unquantized GGUF; quants are made of it and it is not published."""
    return context.work / "gguf-source" / f"{context.manifest.name}-{context.gguf.outtype}.gguf"


def skip_without_gguf(context: Context) -> str | None:
    """Reason to skip the GGUF stages."""
    return None if context.manifest.gguf else "the manifest has no gguf section"


def skip_without_quantizing(context: Context) -> str | None:
    """Reason to skip what only llama-quantize needs."""
    if reason := skip_without_gguf(context):
        return reason
    needed = context.gguf.quantized or context.gguf.quality  # divergences are taken from the unquantized GGUF
    return None if needed else "every quant is cut from the base's GGUF"


def check_assigned_types(context: Context) -> None:
    """Hold every file of types per tensor against the converted model, before calibration or the first quant takes its hours.

    Raises:
        InputError: a line fits no tensor.
    """
    from release.gguf.reader import read_header

    if any(quant.tensor_types for quant in context.gguf.quants):
        check_tensor_types(context.loaded, read_header(source_gguf(context)))


def _inputs(context: Context) -> Any:
    made_of = context.made_by("prune") if context.manifest.prune else base_digest(context)
    context.toolchain.converter()
    return [made_of, context.manifest.name, context.gguf.outtype, context.toolchain.commit, context.toolchain.converter_code]


def _run(context: Context) -> str:
    from release.gguf.convert import convert

    target = source_gguf(context)
    convert(
        context.toolchain,
        context.weights_folder,
        target,
        model_name=context.manifest.name,
        outtype=context.gguf.outtype,
        log=context.logs / "convert.log",
        progress=context.progress,
    )
    return f"{target.name}, {target.stat().st_size:,} bytes"


STAGE = Stage(
    name="convert",
    title="converting to GGUF",
    run=_run,
    inputs=_inputs,
    outputs=lambda context: (source_gguf(context),),
    skip=skip_without_quantizing,
    needs=("prune",),
    passing=True,
)
