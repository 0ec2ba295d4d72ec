"""Base files against pinned digests, in the same pass in which a build reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pruner.errors import CheckFailedError
from pruner.files import sha256_bytes
from pruner.sources import Source, SourceFile, read_small

Pins = Mapping[str, str]
"""Name of a base file → the SHA-256 that it must have."""


def require_known_digests(source: Source, pins: Pins) -> Pins:
    """Compare the pins with what the source knows without reading, and return those that remain to be read.

    Raises:
        CheckFailedError: a pinned file is missing or has another digest.
    """
    files = source.files
    for name, pinned in pins.items():
        if name not in files:
            raise CheckFailedError(f"{source.label}/{name}: the base file is missing; use the pinned base")
        if (known := files[name].sha256) is not None:
            require_digest(source, name, known, pinned)
    return {name: pinned for name, pinned in pins.items() if files[name].sha256 is None}


def require_small_files(source: Source, pins: Pins, names: Iterable[str]) -> None:
    """Compare small files with their pins, before what they say is believed.

    Raises:
        CheckFailedError: a pinned one has another digest.
        InputError, UnavailableError: see `read_small`.
    """
    for name in names:
        if name in pins and name in source.files:
            require_digest(source, name, sha256_bytes(read_small(source, name, "the base file")), pins[name])


def require_digest(source: Source, name: str, found: str, pinned: str) -> None:
    """Raise CheckFailedError when a base file is not the pinned one."""
    if found != pinned:
        raise CheckFailedError(f"{source.label}/{name}: has SHA-256 {found}, {pinned} is pinned; use the pinned base")


@dataclass
class _Followed:
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    position: int = 0


@dataclass
class FollowingSource:
    """A source that digests pinned files front to back while ranges of them are read in ascending order.

    Bytes between two ranges (dropped experts) are read for the digest.  A range that lies before the position, or is read by
    another follower, costs a second read of its bytes; a build hands each base file to one follower.
    """

    source: Source
    pins: Pins
    _followed: dict[str, _Followed] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The source's own."""
        return self.source.label

    @property
    def gap(self) -> int:
        """The source's own."""
        return self.source.gap

    @property
    def files(self) -> Mapping[str, SourceFile]:
        """The source's own."""
        return self.source.files

    @property
    def folders(self) -> tuple[str, ...]:
        """The source's own."""
        return self.source.folders

    def state(self, name: str) -> str:
        """The source's own."""
        return self.source.state(name)

    def read(self, name: str, start: int, length: int) -> bytes:
        """Exactly `length` bytes from `start`; see `Source.read`."""
        return b"".join(self.blocks(name, start, length))

    def blocks(self, name: str, start: int, length: int) -> Iterator[bytes]:
        """The same in blocks; digested on the way when nothing before them is missing."""
        state = self._followed.setdefault(name, _Followed()) if name in self.pins else None
        if state is None or start < state.position:
            yield from self.source.blocks(name, start, length)
            return
        for block in self.source.blocks(name, state.position, start - state.position):
            self._take(state, block)
        for block in self.source.blocks(name, start, length):
            self._take(state, block)
            yield block

    def _take(self, state: _Followed, block: bytes) -> None:
        state.digest.update(block)
        state.position += len(block)

    def finish(self) -> None:
        """Read what is left of every pinned file and compare the digests.

        Raises:
            CheckFailedError: a file is not the pinned one.
        """
        for name, pinned in self.pins.items():
            state = self._followed.setdefault(name, _Followed())
            for block in self.source.blocks(name, state.position, self.files[name].size - state.position):
                self._take(state, block)
            require_digest(self.source, name, state.digest.hexdigest(), pinned)
