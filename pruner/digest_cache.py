"""Digests that were computed here: of planned files, so that a proof that was killed goes on from there, and of large files.

Only planned files of a base on the Hub are remembered: its commit and the digests that the Hub lists say which bytes they were
made of.  The key covers header and byte ranges of the file too, and so layout and drop map; nothing of it comes from a target.
A local file is remembered with its place and time stamps.  These do not show a bit that rotted: who relies on a remembered
digest compares it with the bytes when it reads them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pruner.errors import UnavailableError
from pruner.files import digest_of, write_atomic
from pruner.hub_source import HubSource
from pruner.plan import PlannedShard
from pruner.sources import Source

FORMAT, FILE_FORMAT = "planned-digest/v1", "file-digest/v1"
LARGE = 64 << 20
"""Bytes from which on a file's digest is worth to be remembered: a tenth of a second."""
HEXADECIMAL = re.compile(r"[0-9a-f]{40,64}\Z")


@dataclass(frozen=True)
class DigestCache:
    """One small file per shard in a folder of the user's."""

    folder: Path

    def find(self, shard: PlannedShard, base: Source, kind: str) -> str | None:
        """The digest of a shard as it was computed before, None when it was not."""
        return _read(self._path(shard, base, kind))

    def store(self, shard: PlannedShard, base: Source, kind: str, digest: str) -> None:
        """Remember a digest; a full or read-only disk only costs the time to compute it again."""
        _write(self._path(shard, base, kind), digest)

    def _path(self, shard: PlannedShard, base: Source, kind: str) -> Path | None:
        if not isinstance(base, HubSource):
            return None
        ranges = [[each.file, each.start, each.length] for tensor in shard.tensors for each in tensor.ranges]
        states = {each.file: base.state(each.file) for tensor in shard.tensors for each in tensor.ranges}
        header = hashlib.sha256(shard.header).hexdigest()
        return self.folder / digest_of([FORMAT, base.repo, base.commit, kind, header, ranges, states])


@dataclass(frozen=True)
class FileDigestCache:
    """SHA-256 of large local files, by their place and time stamps."""

    folder: Path

    def digest(self, path: Path, compute: Callable[[], str]) -> tuple[str, bool]:
        """The SHA-256 of a file, and whether it is only remembered; what is not remembered is computed, and then is."""
        place = self._path(path)
        if (known := _read(place)) is not None:
            return known, True
        sha256 = compute()
        if self._path(path) == place:  # else it was written to while it was read
            _write(place, sha256)
        return sha256, False

    def forget(self, path: Path) -> None:
        """Remember a file's digest no more."""
        if (place := self._path(path)) is not None:
            with suppress(OSError):
                place.unlink(missing_ok=True)

    def _path(self, path: Path) -> Path | None:
        place = path.resolve()
        state = place.stat()
        if state.st_size < LARGE:
            return None
        stamps = [state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns]
        return self.folder / digest_of([FILE_FORMAT, str(place), stamps])


def _read(path: Path | None) -> str | None:
    try:
        text = path.read_text(encoding="ascii") if path else ""
    except (OSError, ValueError):
        return None
    return text if HEXADECIMAL.match(text) else None


def _write(path: Path | None, digest: str) -> None:
    if path is not None:
        with suppress(OSError, UnavailableError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, digest.encode())
