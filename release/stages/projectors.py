"""Projectors of a vision model: the base's own files, published unchanged beside the quants, for only experts are removed."""

from __future__ import annotations

from pathlib import Path

from pruner.errors import InputError
from release.context import Context
from release.documents import place_of
from release.gguf.cut import cut, leftovers
from release.gguf.cut_plan import CopyPlan
from release.manifest import BaseQuant, LoadedManifest
from release.stages.cut_quant import base_quant

ARCHITECTURE = "clip"
"""What llama.cpp calls every projector, of sound too."""


def check_projector(loaded: LoadedManifest, source: BaseQuant) -> None:
    """Check by its header that a file is a projector.

    Raises:
        InputError: it is missing, no GGUF, or another kind of model.
        UnavailableError: the Hub does not give it.
    """
    found = base_quant(loaded, source).header.architecture
    if found != ARCHITECTURE:
        place = place_of(loaded.path, source.path or str(source.file))
        raise InputError(f"{place}: {source.label} is a GGUF of architecture {found[:40]!r}, and no projector ({ARCHITECTURE})")


def copy_projectors(context: Context) -> None:
    """Copy the manifest's projectors; one that an earlier run copied is kept, and a copy that was killed goes on.

    Raises:
        InputError: one is missing.
        CheckFailedError: one is not the pinned one; nothing is left behind.
        UnavailableError: the disk is full, or the Hub does not give it.
    """
    for source in context.gguf.mmproj:
        base, target, record = base_quant(context.loaded, source), *_places(context, source)
        plan = CopyPlan(base.name, base.header.file_size)
        cut(base, plan, target, pinned=source.digests, record=record, progress=context.progress)


def projector_leftovers(context: Context) -> list[Path]:
    """What killed runs left of copies, for the next one to judge."""
    return [path for source in context.gguf.mmproj for path in leftovers(*_places(context, source))]


def _places(context: Context, source: BaseQuant) -> tuple[Path, Path]:
    """Where the copy of a projector stands, and where its digest is noted."""
    return context.work / "gguf" / source.name, context.work / "records" / f"copy-{source.name}.json"
