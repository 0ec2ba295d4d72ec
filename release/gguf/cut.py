"""Cutting: a plan turned into a GGUF, streaming from the base's GGUF, digested while it is written."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pruner.base_check import FollowingSource, require_digest
from pruner.errors import CheckFailedError, InputError, UnavailableError
from pruner.files import BLOCK, canonical_json, fsync_folder, require_space, sha256_file, write_atomic, write_errors
from pruner.progress import SILENT, Advance, Progress
from release.gguf.cut_plan import CutPlan, after, read_parts
from release.gguf.located import LocatedGguf
from release.gguf.side_digest import SideDigest

SAVED_EVERY = 256 << 20
"""Bytes after which the digest of what is written so far is noted, so that a killed cut goes on from there."""
Checked = Literal["read", "listed"]


@dataclass(frozen=True)
class CutGguf:
    """A finished cut; `checked` says how the base's pinned digest was compared: by reading it, or with the Hub's listing."""

    size: int
    sha256: str
    checked: Checked | None


def cut(
    base: LocatedGguf,
    plan: CutPlan,
    target: Path,
    *,
    pinned: str | None = None,
    record: Path | None = None,
    progress: Progress = SILENT,
) -> CutGguf:
    """Write a planned GGUF, which appears under its name only when it is complete.

    A killed cut leaves a hidden sibling; the next one checks its digest and goes on from there.  Memory: a few blocks of 1 MiB.

    Args:
        base: the GGUF that `plan` was made for.
        plan: what to write.
        target: a file that does not exist, unless `record` says that it is this plan's.
        pinned: SHA-256 that the base must have: compared with the Hub's listing, or by reading the whole of a local file in the
            pass that copies it.
        record: where the digest of a finished cut is noted; with it a target that is finished already is kept.
        progress: counts bytes.

    Raises:
        InputError: `target` exists, or another process writes it.
        CheckFailedError: the base has another digest than `pinned`; nothing is left behind.
        UnavailableError: the disk is full, or a remote base cannot be reached.
    """
    checked = _check_listed(base, pinned)
    if (kept := _kept(base, plan, target, record, checked)) is not None:
        return kept
    _require_space(plan, target)
    with write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _partial_file(target) as partial:
            follower = FollowingSource(base.source, {base.name: pinned} if pinned and checked == "read" else {})
            work = _Work(plan, plan.digest(base.source), partial, partial_files(target)[1])
            with progress.task(f"cutting {target.name}", plan.size, "bytes") as advance:
                sha256 = work.write(follower, advance)
            follower.finish()
            os.fsync(partial.fileno())
        _deliver(target)
    if record is not None:
        write_atomic(record, canonical_json({"plan": work.identity, "sha256": sha256}))
    return CutGguf(plan.size, sha256, checked)


def partial_files(target: Path) -> tuple[Path, Path]:
    """Where an unfinished cut of `target` grows, and where the digest of its beginning is noted."""
    partial = target.with_name(f".{target.name}.partial")
    return partial, partial.with_name(f"{partial.name}.json")


def _require_space(plan: CutPlan, target: Path) -> None:
    partial, _ = partial_files(target)
    there = partial.stat().st_size if partial.exists() else 0
    require_space(target.parent, plan.size - there, f"the cut GGUF {target.name}")


def _check_listed(base: LocatedGguf, pinned: str | None) -> Checked | None:
    if pinned is None:
        return None
    if base.listed is not None:
        require_digest(base.source, base.name, base.listed, pinned)
    return "listed" if base.listed is not None else "read"


def _kept(base: LocatedGguf, plan: CutPlan, target: Path, record: Path | None, checked: Checked | None) -> CutGguf | None:
    """A target that an earlier run finished, its digest read again."""
    if not target.exists():
        return None
    noted = _read_note(record) if record is not None else {}
    if noted.get("plan") == plan.digest(base.source) and target.stat().st_size == plan.size:
        sha256 = sha256_file(target)
        if sha256 == noted.get("sha256"):
            return CutGguf(plan.size, sha256, checked)
    if record is None:
        raise InputError(f"{target}: already exists; remove it or choose another name")
    target.unlink()
    return None


def _read_note(path: Path) -> dict[str, Any]:
    """A note of ours; an empty one when it is missing or damaged, for then the work is done again."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@contextmanager
def _partial_file(target: Path) -> Iterator[BinaryIO]:
    """The open file of an unfinished cut; it stays for the next run unless it is of no use to it."""
    partial, _ = partial_files(target)
    with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT, 0o644), "rb+", buffering=0) as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{target}: another process is writing it; wait for it or choose another name") from None
        try:
            yield file
        except (CheckFailedError, InputError, OSError):  # a wrong or shrunken base, a full disk
            _forget(target)
            raise


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
    """An unfinished cut: its plan, the plan's digest, the open file, and where the digest of its beginning is noted."""

    plan: CutPlan
    identity: str
    file: BinaryIO
    note: Path

    def write(self, source: FollowingSource, advance: Advance) -> str:
        """Write what is missing.

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
