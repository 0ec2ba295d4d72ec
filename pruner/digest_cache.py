"""Digests of planned shards that were computed on this machine, so that a proof that was killed goes on from there.

Only shards of a base on the Hub are remembered: its commit and the digests that the Hub lists say which bytes they were made
of.  The key covers header and byte ranges of the shard too, and so layout and drop map; nothing of it comes from a target.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pruner.files import digest_of, write_atomic
from pruner.hub_source import HubSource
from pruner.plan import PlannedShard
from pruner.sources import Source

FORMAT = "planned-digest/v1"
HEXADECIMAL = re.compile(r"[0-9a-f]{40,64}\Z")


@dataclass(frozen=True)
class DigestCache:
    """One small file per shard in a folder of the user's."""

    folder: Path

    def find(self, shard: PlannedShard, base: Source, kind: str) -> str | None:
        """The digest of a shard as it was computed before, None when it was not."""
        path = self._path(shard, base, kind)
        try:
            text = path.read_text(encoding="ascii") if path else ""
        except (OSError, ValueError):
            return None
        return text if HEXADECIMAL.match(text) else None

    def store(self, shard: PlannedShard, base: Source, kind: str, digest: str) -> None:
        """Remember a digest; a full or read-only disk only costs the time to compute it again."""
        if (path := self._path(shard, base, kind)) is not None:
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(path, digest.encode())

    def _path(self, shard: PlannedShard, base: Source, kind: str) -> Path | None:
        if not isinstance(base, HubSource):
            return None
        ranges = [[each.file, each.start, each.length] for tensor in shard.tensors for each in tensor.ranges]
        states = {each.file: base.state(each.file) for tensor in shard.tensors for each in tensor.ranges}
        header = hashlib.sha256(shard.header).hexdigest()
        return self.folder / digest_of([FORMAT, base.repo, base.commit, kind, header, ranges, states])
