"""Cutting: a plan turned into a GGUF, streaming from the base's GGUF, digested while it is written."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pruner.base_check import FollowingSource, require_digest, require_known_digests
from pruner.errors import CheckFailedError, InputError, UnavailableError
from pruner.files import (
    BLOCK,
    canonical_json,
    digest_of,
    fsync_folder,
    read_json,
    require_space,
    sha256_file,
    write_atomic,
    write_errors,
)
from pruner.progress import SILENT, Advance, Progress
from pruner.sources import is_plain_name
from pruner.wording import counted
from release.gguf.cut_plan import CopyPlan, CutPlan, after, read_parts
from release.gguf.located import LocatedGguf
from release.gguf.shards import MOST_PARTS, shard_names
from release.gguf.side_digest import SideDigest
from release.gguf.split_plan import split_plan

LARGEST_NOTE = 1 << 20
"""Bytes of a note that is read; one that is larger is none of ours."""
SAVED_EVERY = 256 << 20
"""Bytes after which the digest of what is written so far is noted, so that a killed cut goes on from there."""
Checked = Literal["read", "listed"]


@dataclass(frozen=True)
class CutFile:
    """A finished file of a cut."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class CutGguf:
    """A finished cut: its file, or its shards in order.

    `checked` says how the base's pinned digests were compared: by reading it, or with the Hub's listing.
    """

    files: tuple[CutFile, ...]
    checked: Checked | None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def cut(
    base: LocatedGguf,
    plan: CutPlan | CopyPlan,
    target: Path,
    *,
    max_bytes: int | None = None,
    pinned: Sequence[str] = (),
    record: Path | None = None,
    progress: Progress = SILENT,
) -> CutGguf:
    """Write a planned GGUF, whose files appear under their names only when all are complete.

    A killed cut leaves hidden siblings; the next one checks their digests and goes on from there.  Memory: a few blocks.

    Args:
        base: the GGUF that `plan` was made for.
        plan: what to write: a cut, or a file as it is.
        target: a file that does not exist, unless `record` says that it is this plan's.  Shards stand beside it, under its name
            and `-00001-of-0000N.gguf`.
        max_bytes: tensor data above which it is written in shards; see `split_plan`.
        pinned: SHA-256 that the base's files must have, in order: compared with the Hub's listing, or by reading the whole of
            local files in the pass that copies them.
        record: where the digests of a finished cut are noted; with it files that are finished already are kept.
        progress: counts bytes.

    Raises:
        InputError: a file of the cut exists, another process writes it, or there would be too many shards.
        CheckFailedError: the base has another digest than is pinned; nothing is left behind.
        UnavailableError: the disk is full, or a remote base cannot be reached.
    """
    pins = pins_of(base, pinned)
    checked: Checked | None = None if not pins else "listed" if base.parts[0].listed is not None else "read"
    unread = require_known_digests(base.source, pins)
    files = _files(base, plan, target, max_bytes, pinned)
    digests = {file.target.name: sha256 for file in files if (sha256 := _kept(file, record)) is not None}
    missing = [file for file in files if file.target.name not in digests]
    if missing:
        _require_space(missing, target)
        with write_errors(missing[0].target):
            target.parent.mkdir(parents=True, exist_ok=True)
            digests |= _write(FollowingSource(base.source, unread), missing, target.name, progress, pins)
            if record is not None:  # before the names: a run that is killed between them finds what it may keep
                write_atomic(record, canonical_json({each.target.name: _noted(each, digests) for each in files}))
            for file in missing:
                _deliver(file.target)
    return CutGguf(tuple(CutFile(each.target.name, each.plan.size, digests[each.target.name]) for each in files), checked)


def pins_of(base: LocatedGguf, digests: Sequence[str]) -> dict[str, str]:
    """The digest that each of the base's files must have; empty when none is pinned.

    Raises:
        InputError: there are more or fewer digests than files.
    """
    if digests and len(digests) != len(base.parts):
        given = counted(len(digests), "digest")
        raise InputError(f"{base.label}: {given} for {counted(len(base.parts), 'file')}; give one for each, in order")
    return {part.name: sha256 for part, sha256 in zip(base.parts, digests, strict=False)}


def cut_targets(target: Path, count: int) -> list[Path]:
    """Where the files of a cut stand: `target` itself, or its shards beside it."""
    if count == 1:
        return [target]
    return [target.with_name(name) for name in shard_names(target.name.removesuffix(".gguf"), count)]


def partial_files(target: Path) -> tuple[Path, Path]:
    """Where an unfinished file of a cut grows, and where the digest of its beginning is noted."""
    partial = target.with_name(f".{target.name}.partial")
    return partial, partial.with_name(f"{partial.name}.json")


def leftovers(target: Path, record: Path) -> list[Path]:
    """What killed cuts left at a target, whole or in any shards: files that `record` notes, and beginnings with their notes."""
    stem = re.escape(target.name.removesuffix(".gguf"))
    beginning = re.compile(rf"\.{stem}(-\d{{5}}-of-\d{{5}})?\.gguf\.partial(\.json)?")
    finished = [target.with_name(name) for name in _read_note(record) if is_plain_name(name)]
    return [*finished, *(path for path in target.parent.glob(".*") if beginning.fullmatch(path.name))]


@dataclass(frozen=True)
class _File:
    """A file of a cut: its plan, what tells it from others, and where it will stand."""

    plan: CutPlan | CopyPlan
    identity: str
    target: Path


def _files(
    base: LocatedGguf, plan: CutPlan | CopyPlan, target: Path, max_bytes: int | None, pinned: Sequence[str]
) -> list[_File]:
    """The files of a cut; what was written under other pins is none of them, for those were never compared."""
    plans: Sequence[CutPlan | CopyPlan] = split_plan(plan, max_bytes) if isinstance(plan, CutPlan) else (plan,)
    if len(plans) > MOST_PARTS:
        raise InputError(
            f"{target}: would be {len(plans):,} shards; let a shard be larger, so that they are {MOST_PARTS} at most"
        )
    identities = [digest_of([each.digest(base.source), *pinned]) for each in plans]
    return [_File(*each) for each in zip(plans, identities, cut_targets(target, len(plans)), strict=True)]


def _noted(file: _File, digests: Mapping[str, str]) -> dict[str, str]:
    return {"plan": file.identity, "sha256": digests[file.target.name]}


def _write(
    base: FollowingSource, files: Sequence[_File], title: str, progress: Progress, pins: Mapping[str, str]
) -> dict[str, str]:
    """Write files that wait for their names, in one pass over the base; SHA-256 of each by name."""
    digests = {}
    total = sum(file.plan.size for file in files)
    with ExitStack() as partials, progress.task(f"writing {title}", total, "bytes") as advance:
        for file in files:
            partial = partials.enter_context(_partial_file(file.target))
            work = _Work(file.plan, file.identity, partial, partial_files(file.target)[1])
            digests[file.target.name] = written = work.write(base, advance, last=file is files[-1])
            if isinstance(file.plan, CopyPlan) and pins:  # what the Hub lists is not what it sends
                require_digest(base, file.plan.name, written, pins[file.plan.name])
            os.fsync(partial.fileno())
        base.finish()
    return digests


def _require_space(files: Sequence[_File], target: Path) -> None:
    partials = [partial_files(file.target)[0] for file in files]
    there = sum(partial.stat().st_size for partial in partials if partial.exists())
    require_space(target.parent, sum(file.plan.size for file in files) - there, f"the GGUF {target.name}")


def _kept(file: _File, record: Path | None) -> str | None:
    """SHA-256, read again, of a file that an earlier run finished."""
    if not file.target.exists():
        return None
    noted = _read_note(record).get(file.target.name) if record is not None else None
    if isinstance(noted, dict) and noted.get("plan") == file.identity and file.target.stat().st_size == file.plan.size:
        sha256 = sha256_file(file.target)
        if sha256 == noted.get("sha256"):
            return sha256
    if record is None:
        raise InputError(f"{file.target}: already exists; remove it or choose another name")
    file.target.unlink()
    return None


def _read_note(path: Path) -> dict[str, Any]:
    """A note of ours; an empty one when it is missing or damaged, for then the work is done again."""
    try:
        content = read_json(path, "a note", LARGEST_NOTE) if path.is_file() else {}
    except (InputError, OSError):
        return {}
    return content if isinstance(content, dict) else {}


@contextmanager
def _partial_file(target: Path) -> Iterator[BinaryIO]:
    """The open file of an unfinished cut; it stays for the next run unless it is of no use to it."""
    partial, _ = partial_files(target)
    if os.path.lexists(partial) and not _is_ours(partial):
        partial.unlink()
    with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644), "rb+", buffering=0) as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{target}: another process is writing it; wait for it or choose another name") from None
        try:
            yield file
        except (CheckFailedError, InputError, OSError):  # a wrong or shrunken base, a full disk
            _forget(target)
            raise


def _is_ours(path: Path) -> bool:
    """Whether a path is a plain file under one name; what is written through a link is somebody else's."""
    found = path.lstat()
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1


def _forget(target: Path) -> None:
    for path in partial_files(target):
        path.unlink(missing_ok=True)


def _deliver(target: Path) -> None:
    partial, note = partial_files(target)
    partial.replace(target)
    note.unlink(missing_ok=True)
    fsync_folder(target.parent)


@dataclass
class _Work:
    """An unfinished cut: its plan, what tells it from others, the open file, and where the digest of its beginning is noted."""

    plan: CutPlan | CopyPlan
    identity: str
    file: BinaryIO
    note: Path

    def write(self, source: FollowingSource, advance: Advance, *, last: bool) -> str:
        """Write what is missing; what is not the last file is noted as complete, for a run that is killed in a later one.

        Returns:
            SHA-256 of the whole file.
        """
        beginning, done = self._resume(advance)
        saved = done
        with SideDigest(beginning) as whole:
            try:
                for block in read_parts(after(self.plan.parts, done), source):
                    whole.update(block)
                    self._write_all(block)
                    done += len(block)
                    advance(len(block))
                    if done - saved >= SAVED_EVERY:
                        saved = done
                        self._save(done, whole)
            except (UnavailableError, KeyboardInterrupt, SystemExit):  # the line broke, or the user has no patience
                self._save(done, whole)
                raise
            if not last:
                self._save(done, whole)
            return whole.hexdigest()

    def _write_all(self, block: bytes) -> None:
        view = memoryview(block)
        while view:
            view = view[self.file.write(view) :]

    def _resume(self, advance: Advance) -> tuple[hashlib._Hash, int]:
        """Take over what a killed run wrote, as far as its noted digest vouches for it, and cut off the rest."""
        noted = _read_note(self.note)
        digest, done = self._beginning(self._noted_length(noted))
        if digest.hexdigest() != noted.get("sha256"):
            digest, done = hashlib.sha256(), 0
        self.file.truncate(done)
        self.file.seek(done)
        advance(done)
        return digest, done

    def _noted_length(self, noted: Mapping[str, Any]) -> int:
        """Bytes that a note vouches for; 0 when it is of another plan."""
        length = noted.get("bytes")
        if type(length) is not int or noted.get("plan") != self.identity or not 0 < length <= self.plan.size:
            return 0
        return length

    def _beginning(self, length: int) -> tuple[hashlib._Hash, int]:
        """Digest of the first `length` bytes, or of as many as there are, and their number."""
        digest, left = hashlib.sha256(), length
        self.file.seek(0)
        while left and (block := self.file.read(min(BLOCK, left))):
            digest.update(block)
            left -= len(block)
        return digest, length - left

    def _save(self, done: int, whole: SideDigest) -> None:
        """Note how far the file can be trusted; a full disk shows with the next block."""
        with suppress(UnavailableError):
            os.fsync(self.file.fileno())
            write_atomic(self.note, canonical_json({"bytes": done, "plan": self.identity, "sha256": whole.hexdigest()}))
