"""Digests of planned files that were computed on this machine, so that a proof that was killed goes on from there.

Only those of a base on the Hub are remembered: its commit and the digests that the Hub lists say which bytes they were made of.
The key covers header and byte ranges of the file too, and so layout and drop map; nothing of it comes from a target.
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
    """One small file per digest in a folder of the user's."""

    folder: Path

    def find(self, shard: PlannedShard, base: Source, kind: str) -> str | None:
        """The digest of a shard as it was computed before, None when it was not."""
        return self.recall(_key(shard, base, kind))

    def store(self, shard: PlannedShard, base: Source, kind: str, digest: str) -> None:
        """Remember a digest; a full or read-only disk only costs the time to compute it again."""
        self.keep(_key(shard, base, kind), digest)

    def recall(self, key: str | None) -> str | None:
        """The digest under a key, which is None for what cannot be remembered."""
        path = self.folder / key if key else None
        try:
            text = path.read_text(encoding="ascii") if path else ""
        except (OSError, ValueError):
            return None
        return text if HEXADECIMAL.match(text) else None

    def keep(self, key: str | None, digest: str) -> None:
        """Remember a digest under a key; nothing under None."""
        if key is not None:
            with suppress(OSError):
                self.folder.mkdir(parents=True, exist_ok=True)
                write_atomic(self.folder / key, digest.encode())


def key_of(base: Source, *plan: object) -> str | None:
    """The key of what is planned of a base on the Hub; None for another base, whose files may change."""
    return digest_of([FORMAT, base.repo, base.commit, *plan]) if isinstance(base, HubSource) else None


def _key(shard: PlannedShard, base: Source, kind: str) -> str | None:
    if not isinstance(base, HubSource):
        return None
    ranges = [[each.file, each.start, each.length] for tensor in shard.tensors for each in tensor.ranges]
    states = {each.file: base.state(each.file) for tensor in shard.tensors for each in tensor.ranges}
    return key_of(base, kind, hashlib.sha256(shard.header).hexdigest(), ranges, states)
