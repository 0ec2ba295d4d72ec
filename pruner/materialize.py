"""Materialize: a published variant rebuilt on this disk, from the base and the kilobytes that the variant says of itself."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pruner.build import MARKER, BuildResult, FileDigest, build
from pruner.checkpoint import INDEX, is_companion, open_checkpoint
from pruner.errors import CheckFailedError, InputError
from pruner.exclusive import exclusive
from pruner.files import fsync_folder, git_blob_id, parse_json, sha256_bytes, write_atomic
from pruner.places import require_new, require_outside
from pruner.plan import Plan
from pruner.progress import SILENT, Progress
from pruner.sources import LocalSource, Source, digested, read_small
from pruner.target_layout import planned, read_layout
from pruner.wording import counted, some


@dataclass(frozen=True)
class Materialized(BuildResult):
    """The files of a variant; those `taken` from the target instead of rebuilt; and those `left_out`, as it has none."""

    taken: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def materialize(
    target: Source,
    base: Source,
    out: Path,
    *,
    take: bool = False,
    executor: Executor | None = None,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> Materialized:
    """Rebuild `target` from `base` in the folder `out`; of the target only metadata, index, headers and small files are read.

    `out` appears only when the digest of every file equals the published one.  With `take` small files that are published
    otherwise than they would be rebuilt, a reformatted config or a mended chat template, are fetched, and compared with their
    listed digest; shards must equal the rebuilt ones in any case.

    Raises:
        InputError: `out` exists or lies in a source's folder, or the target does not say how it was made.
        CheckFailedError: a rebuilt file is not the published one; nothing is left behind.
        UnavailableError: a source cannot be reached, not enough space, or another process makes `out`.
    """
    require_new(out, "folder")
    for source, whose in ((target, "the target's"), (base, "the base's")):
        if isinstance(source, LocalSource):
            require_outside(out, source.folder, whose)
    plan = planned(read_layout(target), open_checkpoint(base), target)
    with _place_for(out) as unchecked:
        built = build(plan, base, unchecked, executor=executor, workers=workers, progress=progress)
        try:
            _require_published(plan, built, unchecked, target, take=take)
            result = _as_published(plan, built, unchecked, target) if take else Materialized(built.files)
        except BaseException:
            shutil.rmtree(unchecked, ignore_errors=True)
            raise
        unchecked.rename(out)
        fsync_folder(out.parent)
    return result


@contextmanager
def _place_for(out: Path) -> Iterator[Path]:
    """Where files stand until they are compared, with a marker beside it that says that it is ours, and that only one has.

    Raises:
        InputError: there is a folder of that name without a marker: it is somebody else's.
        UnavailableError: another process works there.
    """
    unchecked = out.with_name(f".{out.name}.unchecked")
    marker = out.with_name(f"{unchecked.name}{MARKER}")
    if unchecked.exists() and not marker.exists():
        raise InputError(f"{unchecked}: exists and is not an unfinished build of ours; move it away")
    out.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(marker, f"{out}: another process makes it; wait for its end, or choose another folder"):
        try:
            require_new(out, "folder")  # that process may have been done just now
            if unchecked.exists():  # of a run that was killed before it could compare
                shutil.rmtree(unchecked)
            yield unchecked
        finally:
            if not unchecked.exists():
                marker.unlink(missing_ok=True)


def _require_published(plan: Plan, built: BuildResult, folder: Path, target: Source, *, take: bool) -> None:
    """Raise CheckFailedError when files that must be rebuilt are not the published ones."""
    shards = {shard.name for shard in plan.shards}
    exact = [file for file in built.files if file.name in shards or not take]
    if wrong := [file.name for file in exact if not _published(file, folder, target)]:
        raise CheckFailedError(
            f"{target.label}: {counted(len(wrong), 'rebuilt file')} not as published: {some(wrong)}; "
            "`moe-release prove` says why"
        )


def _as_published(plan: Plan, built: BuildResult, folder: Path, target: Source) -> Materialized:
    """Make the small files those of the target.

    Raises:
        CheckFailedError: its index leads elsewhere than to the shards that were rebuilt.
        InputError, UnavailableError: a file is too large to be taken, or arrived damaged.
    """
    files = {file.name: file for file in built.files}
    other = [name for name, file in files.items() if not _published(file, folder, target)]
    left_out = tuple(name for name in other if name not in target.files)
    more = [name for name in target.files if name not in files and is_companion(name)]
    taken = tuple(sorted({*other, *more} - set(left_out)))
    for name in left_out:
        (folder / name).unlink()
        with suppress(OSError):  # of the last file in a folder of the base's, the folder goes too
            (folder / name).parent.rmdir()
    for name in taken:
        content = read_small(target, name, "a small file of the target")
        if name == INDEX:
            _require_same_index(plan, content, target)
        write_atomic(folder / name, content)
        files[name] = FileDigest(name, len(content), sha256_bytes(content))
    found = tuple(sorted((file for name, file in files.items() if name not in left_out), key=lambda file: file.name))
    return Materialized(found, taken, left_out)


def _require_same_index(plan: Plan, content: bytes, target: Source) -> None:
    index = parse_json(content, f"{target.label}/{INDEX}", "the index")
    weight_map = {tensor.name: shard.name for shard in plan.shards for tensor in shard.tensors}
    if not isinstance(index, dict) or index.get("weight_map") != weight_map:
        raise CheckFailedError(
            f"{target.label}/{INDEX}: leads to other tensors or shards than were rebuilt; `moe-release prove` says why"
        )


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
