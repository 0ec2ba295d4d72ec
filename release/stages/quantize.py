"""Quantize: one GGUF per quant, made by llama-quantize or cut from the base's, its types read back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from pruner.errors import CheckFailedError
from pruner.files import canonical_json, write_atomic
from release.context import Context
from release.manifest import Quant
from release.stages.calibrate import imatrix_of
from release.stages.convert import skip_without_gguf, source_gguf
from release.stages.cut_quant import cut_quant, unfinished
from release.stages.resolve import file_digest
from release.stages.stage import Stage


def summaries_path(context: Context) -> Path:
    """What was read back from each quant: types, sizes, digests."""
    return context.work / "quants.json"


def read_summaries(context: Context) -> dict[str, dict[str, Any]]:
    """Summaries by quant name."""
    summaries: dict[str, dict[str, Any]] = json.loads(summaries_path(context).read_bytes())
    return summaries


def _inputs(context: Context) -> Any:
    quants = [[quant.model_dump(), file_digest(context, quant.tensor_types)] for quant in context.gguf.quants]
    imatrix = context.made_by("calibrate") if imatrix_of(context) else None
    tools = [context.made_by("convert"), context.toolchain_inputs()] if context.gguf.quantized else None
    return [tools, imatrix, quants, context.made_by("rank") if context.gguf.cut else None]


def _run(context: Context) -> str:
    gguf = context.gguf
    _remove_dropped(context)
    summaries = {quant.name: _made(context, quant, gguf.threads) for quant in gguf.quants}
    _require_distinct(summaries)
    write_atomic(summaries_path(context), canonical_json(summaries))
    return "; ".join(str(summary["composition"]) for summary in summaries.values())


def _remove_dropped(context: Context) -> None:
    """Quants that the manifest no longer lists would otherwise be published with the others."""
    wanted = {context.gguf_file(quant.name) for quant in context.gguf.quants}
    wanted |= {path for name in context.gguf.cut for path in unfinished(context.gguf_file(name))}
    for path in (context.work / "gguf").glob("*"):
        if path.is_dir():  # left by a killed run
            shutil.rmtree(path)
        elif path not in wanted:
            path.unlink()


def _made(context: Context, quant: Quant, threads: int) -> dict[str, Any]:
    if quant.from_ is not None:
        return cut_quant(context, quant.name, quant.from_)
    return _quantize(context, quant, str(quant.type), threads)


def _quantize(context: Context, quant: Quant, quant_type: str, threads: int) -> dict[str, Any]:
    from release.gguf.quantize import quantize
    from release.gguf.summary import fallbacks

    summary = quantize(
        context.toolchain,
        source_gguf(context),
        context.gguf_file(quant.name),
        quant_type=quant_type,
        imatrix=imatrix_of(context),
        tensor_types=context.loaded.file(quant.tensor_types) if quant.tensor_types else None,
        threads=threads,
        log=context.logs / f"quantize-{quant.name}.log",
        progress=context.progress,
    )
    return {**summary.to_json(), "composition": fallbacks(summary, quant_type)}


def _require_distinct(summaries: dict[str, dict[str, Any]]) -> None:
    """Two tiers with the same tensor data are the same file under two names: someone would publish one of them by mistake."""
    seen: dict[str, str] = {}
    for name, summary in summaries.items():
        if (twin := seen.setdefault(summary["tensor_digest"], name)) != name:
            raise CheckFailedError(f"quants {twin} and {name} hold the same tensor data; drop one of them from the manifest")


STAGE = Stage(
    name="quantize",
    title="quantizing",
    run=_run,
    inputs=_inputs,
    outputs=lambda context: (summaries_path(context), context.work / "gguf"),
    skip=skip_without_gguf,
    needs=("rank", "convert", "calibrate"),
)
