"""Materialize: a published variant rebuilt on this disk, from the base and the kilobytes that the variant says of itself."""

from __future__ import annotations

import shutil
from concurrent.futures import Executor
from pathlib import Path

from pruner.build import MARKER, BuildResult, FileDigest, build
from pruner.checkpoint import open_checkpoint
from pruner.errors import CheckFailedError, InputError
from pruner.files import fsync_folder, git_blob_id, write_atomic
from pruner.places import require_new, require_outside
from pruner.progress import SILENT, Progress
from pruner.sources import LocalSource, Source, digested
from pruner.target_layout import planned, read_layout
from pruner.wording import counted, some


def materialize(
    target: Source,
    base: Source,
    out: Path,
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> BuildResult:
    """Rebuild `target` from `base` in the folder `out`; of the target only metadata, index and headers are read.

    `out` appears only when the digest of every file equals the published one.

    Raises:
        InputError: `out` exists or lies in a source's folder, or the target does not say how it was made.
        CheckFailedError: a rebuilt file is not the published one; nothing is left behind.
        UnavailableError: a source cannot be reached, or not enough space.
    """
    require_new(out, "folder")
    for source, whose in ((target, "the target's"), (base, "the base's")):
        if isinstance(source, LocalSource):
            require_outside(out, source.folder, whose)
    plan = planned(read_layout(target), open_checkpoint(base), target)
    unchecked = out.with_name(f".{out.name}.unchecked")
    marker = out.with_name(f"{unchecked.name}{MARKER}")
    _discard(unchecked, marker)  # of a run that was killed before it could compare
    write_atomic(marker, b"")
    result = build(plan, base, unchecked, executor=executor, workers=workers, progress=progress)
    if wrong := [file.name for file in result.files if not _published(file, unchecked, target)]:
        _discard(unchecked, marker)
        raise CheckFailedError(
            f"{target.label}: {counted(len(wrong), 'rebuilt file')} not as published: {some(wrong)}; "
            "`moe-release prove` says why"
        )
    unchecked.rename(out)
    marker.unlink()
    fsync_folder(out.parent)
    return result


def _discard(unchecked: Path, marker: Path) -> None:
    """Remove a folder that the marker beside it says is ours, and then the marker.

    Raises:
        InputError: there is a folder of that name without a marker: it is somebody else's.
    """
    if unchecked.exists():
        if not marker.exists():
            raise InputError(f"{unchecked}: exists and is not an unfinished build of ours; move it away")
        shutil.rmtree(unchecked)
    marker.unlink(missing_ok=True)


def _published(built: FileDigest, folder: Path, target: Source) -> bool:
    """Whether a rebuilt file has the digest that the target lists (or, of a local target, that its content has)."""
    file = target.files.get(built.name)
    if file is None or file.size != built.size:
        return False
    if file.sha256 is not None:
        return file.sha256 == built.sha256
    if file.blob_id is not None:
        return file.blob_id == git_blob_id((folder / built.name).read_bytes())
    return digested(target, file).sha256 == built.sha256
