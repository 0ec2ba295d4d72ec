"""Builds: a plan turned into files, streaming from the base, digested while they are written."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Executor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pruner.base_check import FollowingSource, Pins, require_digest, require_known_digests
from pruner.errors import CheckFailedError, InputError
from pruner.exclusive import exclusive_folder
from pruner.files import (
    atomic_file,
    canonical_json,
    digest_of,
    fsync_folder,
    read_json,
    remove,
    require_space,
    sha256_bytes,
    sha256_file,
    write_atomic,
    write_errors,
)
from pruner.places import require_new
from pruner.plan import Plan, PlannedShard
from pruner.progress import SILENT, Progress
from pruner.sources import ContentIds, Source, as_source, read_ranges, require_listed
from pruner.workers import executor_or_threads

MARKER = ".moe-release-build"
"""Name of the file that marks a folder as one of our unfinished builds."""
COPY_LIMIT = 1 << 30
"""Largest file in bytes beside the weights that is fetched from a remote base."""


@dataclass(frozen=True)
class FileDigest:
    """A written file."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class BuildResult:
    """All files of a build in name order."""

    files: tuple[FileDigest, ...]


def build(
    plan: Plan,
    base: Path | Source,
    target: Path,
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    progress: Progress = SILENT,
    verify_base: Pins | None = None,
) -> BuildResult:
    """Write a plan's files to the folder `target`, which appears only when it is complete.

    Shards are written in parallel on `executor` (default: `workers` threads, one per core); the bytes do not depend on it.
    A killed build leaves finished shards in a hidden sibling folder; the next one checks their digests and keeps them.

    With `verify_base` the named files of the base must have these SHA-256.  What a Hub tells of its files is compared before
    anything is read.  Other files are digested front to back in the pass that copies them, which reads dropped experts too
    and makes at most one worker busy for each file of the base.

    Raises:
        InputError: `target` exists or cannot be made there, or the sibling folder is not ours.
        CheckFailedError: a file of the base has another digest than `verify_base` says; nothing is left behind.
        UnavailableError: not enough space, a remote base cannot be reached, or another process builds `target`.
    """
    require_new(target, "folder")
    source = as_source(base)
    pins = require_known_digests(source, verify_base or {})
    partial = target.with_name(f".{target.name}.partial")
    with _own(partial, target):
        names = {*(shard.name for shard in plan.shards), *plan.texts, *plan.copies}
        _claim(partial, names)
        _require_room(plan, source, partial)
        try:
            with executor_or_threads(executor, workers) as (pool, shared):
                read_in_full = {name: pin for name, pin in pins.items() if name not in plan.copies}
                shards = _write_shards(plan, source, partial, read_in_full, pool, progress, shared=shared)
            files = sorted([*shards, *_write_small_files(plan, source, pins, partial)], key=lambda file: file.name)
        except CheckFailedError:
            shutil.rmtree(partial)  # copies of a wrong base must not be taken for finished shards of the right one
            raise
        _finish(partial, target, names)
    return BuildResult(tuple(files))


@contextmanager
def _own(partial: Path, target: Path) -> Iterator[None]:
    """Make the folder of an unfinished build, and be the only one that works in it."""
    with write_errors(partial):
        partial.mkdir(parents=True, exist_ok=True)
    with exclusive_folder(partial, f"{target}: another process builds it; wait for its end, or choose another folder"):
        if os.path.lexists(target):  # that process was done just now
            with suppress(OSError):
                partial.rmdir()
        require_new(target, "folder")
        yield


def _require_room(plan: Plan, source: Source, partial: Path) -> None:
    """Make room of shards that an earlier build left and this one cannot use, and see that the others fit on the disk."""
    missing = 0
    for shard in plan.shards:
        path = partial / shard.name
        if _recorded(shard, path, _origin(shard, source)) is None:
            path.unlink(missing_ok=True)
            missing += shard.size
    require_space(partial, missing, "the build")


def _write_shards(
    plan: Plan, source: Source, partial: Path, pins: Pins, pool: Executor, progress: Progress, *, shared: bool
) -> list[FileDigest]:
    """All shards, in any order of completion.  Workers of this process report bytes as they go, others whole chains."""
    # The largest first, so that no worker is left with a large one while the others have nothing to do.
    chains = sorted(_chains(plan.shards, pins), key=lambda pair: sum(shard.size for shard in pair[0]), reverse=True)
    with progress.task("writing shards", sum(shard.size for shard in plan.shards), "bytes") as advance:
        pending = [
            pool.submit(write_chain, chain, source, partial, chain_pins, advance if shared else None)
            for chain, chain_pins in chains
        ]
        results = []
        for future in as_completed(pending):
            written = future.result()
            results += written
            if not shared:
                advance(sum(file.size for file in written))
    return results


def _chains(shards: Iterable[PlannedShard], pins: Pins) -> Iterator[tuple[list[PlannedShard], Pins]]:
    """Work that may run side by side: single shards; those that begin in one pinned base file, one after the other."""
    by_file: dict[str, list[PlannedShard]] = {name: [] for name in pins}
    for shard in shards:
        first = next((part.file for tensor in shard.tensors for part in tensor.ranges), None)
        if first in by_file:
            by_file[first].append(shard)
        else:
            yield [shard], {}
    for name, chain in by_file.items():
        yield chain, {name: pins[name]}


def write_chain(
    chain: Iterable[PlannedShard], source: Source, folder: Path, pins: Pins, advance: Callable[[int], None] | None = None
) -> list[FileDigest]:
    """Write shards one after the other, and check the pinned files on the way.

    Raises:
        CheckFailedError: a file of the base is not the pinned one.
    """
    if not pins:
        return [write_shard(shard, source, folder, advance) for shard in chain]
    follower = FollowingSource(source, pins)
    results = [write_shard(shard, follower, folder, advance) for shard in chain]
    follower.finish()
    return results


def write_shard(shard: PlannedShard, source: Source, folder: Path, advance: Callable[[int], None] | None = None) -> FileDigest:
    """Write one shard by copying ranges of the base, or keep the one that an earlier, killed build finished."""
    target = folder / shard.name
    copied_from = _origin(shard, source)
    if (kept := _finished(shard, target, copied_from, advance)) is not None:
        return kept
    with atomic_file(target) as temporary, temporary.open("wb") as output:
        output.write(shard.header)
        digest = hashlib.sha256(shard.header)
        for block in shard_data(shard, source):
            output.write(block)
            digest.update(block)
            if advance:
                advance(len(block))
    result = FileDigest(shard.name, shard.size, digest.hexdigest())
    write_atomic(_record(target), canonical_json({"plan": copied_from, "sha256": result.sha256}))
    return result


def shard_data(shard: PlannedShard, source: Source) -> Iterator[bytes]:
    """The bytes of a shard behind its header, from the ranges of the base, in blocks of at most 1 MiB."""
    return read_ranges(source, (part for tensor in shard.tensors for part in tensor.ranges))


def _origin(shard: PlannedShard, source: Source) -> str:
    """What the shard is copied from; a shard of another plan, or of base files that changed since, is never kept."""
    parts = [part for tensor in shard.tensors for part in tensor.ranges]
    ranges = [[part.file, part.start, part.length] for part in parts]
    states = {name: source.state(name) for name in sorted({part.file for part in parts})}
    return digest_of([sha256_bytes(shard.header), ranges, states])


def _record(target: Path) -> Path:
    return target.with_name(f"{target.name}.json")


def _recorded(shard: PlannedShard, target: Path, copied_from: str) -> str | None:
    """The SHA-256 with which an earlier build wrote this shard, None when there is none or it was another one."""
    if not (target.exists() and _record(target).exists()):
        return None
    try:
        record = read_json(_record(target), "the record of a shard")
    except InputError:  # damaged: the shard is written again
        return None
    if not isinstance(record, dict) or record.get("plan") != copied_from or target.stat().st_size != shard.size:
        return None
    return str(record.get("sha256"))


def _finished(shard: PlannedShard, target: Path, copied_from: str, advance: Callable[[int], None] | None) -> FileDigest | None:
    sha256 = _recorded(shard, target, copied_from)
    if sha256 is None or sha256_file(target, advance) != sha256:
        return None
    return FileDigest(shard.name, shard.size, sha256)


def _write_small_files(plan: Plan, source: Source, pins: Pins, folder: Path) -> Iterator[FileDigest]:
    for name, content in plan.texts.items():
        write_atomic(folder / name, content)
        yield FileDigest(name, len(content), sha256_bytes(content))
    for name in plan.copies:
        with atomic_file(folder / name) as temporary:
            digest = _copy(source, name, temporary)
        if name in pins:
            require_digest(source, name, digest, pins[name])
        yield FileDigest(name, (folder / name).stat().st_size, digest)


def _copy(source: Source, name: str, target: Path) -> str:
    """Copy a file of the base that is no shard.

    Returns:
        its SHA-256.

    Raises:
        InputError: a file of a remote base that is too large to be fetched as a companion of the weights.
        UnavailableError: it arrived with another digest than the Hub lists.
    """
    file = source.files[name]
    if file.size > COPY_LIMIT and source.gap:
        raise InputError(f"{source.label}/{name}: {file.size:,} bytes are too many for a companion file of a remote base")
    ids = ContentIds(file.size)
    with target.open("wb") as output:
        for block in source.blocks(name, 0, file.size):
            output.write(block)
            ids.update(block)
    require_listed(source, file, ids)
    return ids.sha256


def _claim(partial: Path, names: Collection[str]) -> None:
    """Take over the folder of an unfinished build; a foreign folder of that name is refused.

    A build that was killed just before its last rename has no marker any more, but only files of the plan.
    """
    with write_errors(partial):
        if partial.is_symlink():
            raise InputError(f"{partial}: is a link and not an unfinished build; move it away")
        if not (partial / MARKER).exists() and any(_strange(partial, names)):
            raise InputError(f"{partial}: exists and is not an unfinished build; move it away")
        (partial / MARKER).touch()
        for path in partial.rglob(".*.tmp"):
            path.unlink()


def _finish(partial: Path, target: Path, names: Collection[str]) -> None:
    """Remove everything that is not part of the build, the marker last, then give the folder its name."""
    for path in _strange(partial, {*names, MARKER}):
        remove(path)
    (partial / MARKER).unlink()
    fsync_folder(partial)
    partial.rename(target)
    fsync_folder(target.parent)


def _strange(folder: Path, names: Collection[str]) -> list[Path]:
    """What stands in a folder and is neither one of these files nor a folder that holds one."""
    above = {parent.as_posix() for name in names for parent in PurePosixPath(name).parents}
    known = {*names, *above}
    return [path for path in folder.rglob("*") if path.relative_to(folder).as_posix() not in known]
