"""Quality: perplexity and KL divergence of every quant against the unquantized GGUF, on a pinned text."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pruner.errors import CheckFailedError, InputError
from pruner.files import canonical_json, digest_of, read_json, write_atomic
from release.context import Context
from release.documents import Document
from release.gguf.perplexity import Predictions, compare_quant, predict, read_predictions
from release.gguf.quality import Estimate, Quality, QualitySource, QualityText, QuantQuality, write_quality
from release.manifest import QualityCheck
from release.stages.convert import skip_without_gguf, source_gguf
from release.stages.quantize import model_digest, model_file, read_summaries
from release.stages.resolve import file_digest
from release.stages.stage import Stage


class _Part(Document):
    """One quant's result, kept so that a run that was killed goes on with the others."""

    made_of: str
    chunks: int
    tokens: int
    source_perplexity: Estimate
    quant: QuantQuality


def quality_path(context: Context) -> Path:
    """The evidence; it is published beside the quants."""
    return context.work / "quality.json"


def wants_quality(context: Context) -> bool:
    """Whether the manifest asks for it."""
    return context.manifest.gguf is not None and context.manifest.gguf.quality is not None


def _asked(context: Context) -> QualityCheck:
    if context.gguf.quality is None:
        raise InputError(f"{context.loaded.path}: gguf has no quality section")
    return context.gguf.quality


def _skip(context: Context) -> str | None:
    if reason := skip_without_gguf(context):
        return reason
    return None if wants_quality(context) else "the manifest asks for no quality check"


def _common(context: Context) -> list[Any]:
    """What every quant's result depends on beside the quant."""
    asked = _asked(context)
    text = file_digest(context, asked.text)
    return [text, asked.chunks, asked.context, context.made_by("convert"), context.toolchain_inputs()]


def _inputs(context: Context) -> Any:
    quants = {quant.name: model_digest(context, quant.name) for quant in context.gguf.quants}
    return [_common(context), quants, context.self_test.bit_exact]


def _folder(context: Context) -> Path:
    """Where results wait until all are there; deleted then."""
    return context.work / "quality"


def _run(context: Context) -> str:
    parts = {quant.name: _part(context, quant.name) for quant in context.gguf.quants}
    quality = _assemble(context, parts)
    write_quality(quality_path(context), quality)
    shutil.rmtree(_folder(context), ignore_errors=True)
    shown = [f"{name}: KL divergence {each.divergence.kl_divergence.value:.4g}" for name, each in quality.quants.items()]
    return f"{'; '.join(shown)}; over {quality.text.tokens:,} tokens"


def _part(context: Context, quant: str) -> _Part:
    path = _folder(context) / f"{quant}.json"
    made_of = digest_of([_common(context), model_digest(context, quant)])
    if (known := _known(path)) is not None and known.made_of == made_of:
        return known
    predictions = _predictions(context)
    divergence, source = compare_quant(
        context.toolchain,
        model_file(context, quant),
        predictions,
        threads=context.gguf.threads,
        log=context.logs / f"quality-{quant}.log",
        title=f"comparing {quant}",
        progress=context.progress,
    )
    summary = read_summaries(context)[quant]
    part = _Part(
        made_of=made_of,
        chunks=predictions.chunks,
        tokens=predictions.tokens,
        source_perplexity=source,
        quant=QuantQuality(
            sha256=model_digest(context, quant),
            size=summary["file_size"],
            bits_per_weight=summary["bits_per_weight"],
            divergence=divergence,
        ),
    )
    write_atomic(path, canonical_json(part.model_dump()))
    return part


def _known(path: Path) -> _Part | None:
    try:
        return _Part.model_validate(read_json(path, "quality result"))
    except (InputError, ValidationError):
        return None


def _predictions(context: Context) -> Predictions:
    """What the unquantized model predicts: from the interrupted run, or made now."""
    asked = _asked(context)
    path = _folder(context) / f"predictions-{digest_of(_common(context))[:16]}.bin"
    if (found := read_predictions(path)) is not None:
        return found
    return predict(
        context.toolchain,
        source_gguf(context),
        context.loaded.file(asked.text),
        path,
        chunks=asked.chunks,
        context=asked.context,
        threads=context.gguf.threads,
        log=context.logs / "quality.log",
        progress=context.progress,
    )


def _assemble(context: Context, parts: dict[str, _Part]) -> Quality:
    asked = _asked(context)
    first = next(iter(parts.values()))
    if any(each.source_perplexity != first.source_perplexity or each.chunks != first.chunks for each in parts.values()):
        raise CheckFailedError("the quants were compared with different predictions; run the stage again in a new work folder")
    source = source_gguf(context)
    digest = context.record("convert").digests()[source.relative_to(context.work).as_posix()]
    return Quality(
        name=context.manifest.name,
        toolchain_commit=context.toolchain.commit,
        bit_exact=context.self_test.bit_exact,
        text=QualityText(
            name=asked.text.path,
            sha256=file_digest(context, asked.text) or "",
            chunks=first.chunks,
            context=asked.context,
            tokens=first.tokens,
        ),
        source=QualitySource(
            type=context.gguf.outtype, sha256=digest, size=source.stat().st_size, perplexity=first.source_perplexity
        ),
        quants={name: part.quant for name, part in parts.items()},
    )


STAGE = Stage(
    name="quality",
    title="comparing with the unquantized model",
    run=_run,
    inputs=_inputs,
    outputs=lambda context: (quality_path(context),),
    skip=_skip,
    needs=("convert", "quantize"),
)
