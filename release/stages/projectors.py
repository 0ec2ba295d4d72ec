"""Projectors of a vision model: the base's own files, published unchanged beside the quants, for only experts are removed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pruner.base_check import require_digest, require_known_digests
from pruner.errors import InputError
from pruner.files import atomic_file, require_space, sha256_file
from release.context import Context
from release.documents import place_of
from release.gguf.located import LocatedGguf
from release.manifest import BaseQuant, LoadedManifest
from release.stages.cut_quant import base_quant

ARCHITECTURE = "clip"
"""What llama.cpp calls every projector, of sound too."""


def projector_path(context: Context, source: BaseQuant) -> Path:
    """Where the copy of a projector stands."""
    return context.work / "gguf" / source.name


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
    """Copy the manifest's projectors; one that an earlier run copied is kept.

    Raises:
        InputError: one is missing.
        CheckFailedError: one is not the pinned one; nothing is left behind.
        UnavailableError: the disk is full, or the Hub does not give it.
    """
    for source in context.gguf.mmproj:
        target, base = projector_path(context, source), base_quant(context.loaded, source)
        if not target.is_file() or sha256_file(target) != source.digests[0]:
            _copy(context, base, target, source.digests[0])


def _copy(context: Context, base: LocatedGguf, target: Path, pinned: str) -> None:
    size = base.header.file_size
    require_known_digests(base.source, {base.name: pinned})
    require_space(target.parent, size, f"the projector {target.name}")
    digest = hashlib.sha256()
    with atomic_file(target) as temporary:
        with temporary.open("wb") as file, context.progress.task(f"copying {target.name}", size, "bytes") as advance:
            for block in base.source.blocks(base.name, 0, size):
                file.write(block)
                digest.update(block)
                advance(len(block))
        require_digest(base.source, base.name, digest.hexdigest(), pinned)
