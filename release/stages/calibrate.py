"""Calibrate: the importance matrix that quantization weighs columns by."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruner.errors import InputError
from pruner.files import atomic_file
from pruner.wording import counted
from release.context import Context
from release.gguf.names import imatrix_file
from release.manifest import Imatrix, PinnedFile
from release.stages.convert import check_assigned_types, skip_without_quantizing, source_gguf
from release.stages.resolve import file_digest
from release.stages.stage import Stage

if TYPE_CHECKING:
    from release.gguf.imatrix import ImatrixSummary


def imatrix_path(context: Context) -> Path:
    """The importance matrix; published beside the quants."""
    return context.work / "imatrix" / imatrix_file(context.manifest.name)


def imatrix_of(context: Context) -> Path | None:
    """The importance matrix, or None when the manifest asks for none."""
    return imatrix_path(context) if context.manifest.gguf and context.manifest.gguf.imatrix else None


def _skip(context: Context) -> str | None:
    if reason := skip_without_quantizing(context):
        return reason
    return None if imatrix_of(context) else "the manifest asks for no imatrix"


def _imatrix(context: Context) -> Imatrix:
    if context.gguf.imatrix is None:
        raise InputError(f"{context.loaded.path}: gguf has no imatrix section")
    return context.gguf.imatrix


def _pinned(matrix: Imatrix) -> PinnedFile:
    if matrix.file is None:
        raise InputError("imatrix: neither text nor file")
    return matrix.file


def _inputs(context: Context) -> Any:
    matrix = _imatrix(context)
    source = file_digest(context, matrix.text or matrix.file)
    return [source, context.made_by("convert"), matrix.model_dump(), context.toolchain_inputs()]


def _run(context: Context) -> str:
    from release.gguf.imatrix import compute_imatrix, read_imatrix, require_fits
    from release.gguf.reader import read_header

    check_assigned_types(context)
    matrix = _imatrix(context)
    if matrix.text is None:
        pinned = context.loaded.file(_pinned(matrix))
        summary = read_imatrix(pinned)
        require_fits(pinned, read_header(source_gguf(context)))
        with atomic_file(imatrix_path(context)) as temporary:
            shutil.copyfile(pinned, temporary)
        if summary.unreached:
            context.progress.note(f"the pinned imatrix never reached {counted(summary.unreached_experts, 'expert')}")
        return f"pinned imatrix, {_reach(summary)}"
    summary = compute_imatrix(
        context.toolchain,
        source_gguf(context),
        context.loaded.file(matrix.text),
        imatrix_path(context),
        chunks=matrix.chunks,
        context=matrix.context,
        threads=context.gguf.threads,
        parse_special=matrix.parse_special,
        log=context.logs / "imatrix.log",
        progress=context.progress,
    )
    return _reach(summary)


def _reach(summary: ImatrixSummary) -> str:
    unreached = summary.unreached_experts
    reach = "every expert reached" if not unreached else f"{counted(unreached, 'expert')} never reached"
    return f"{counted(summary.chunks, 'chunk')} of {summary.context} tokens, {reach}"


STAGE = Stage(
    name="calibrate",
    title="calibrating the importance matrix",
    run=_run,
    inputs=_inputs,
    outputs=lambda context: (imatrix_path(context),),
    skip=_skip,
    needs=("convert",),
)
