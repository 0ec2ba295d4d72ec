"""Contents of files, each stored once under its SHA-256."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pruner.files import BLOCK, fsync_folder, write_errors
from release.hub.server.errors import HubError


class Incoming:
    """A content on its way in: written to a temporary file and hashed at the same time."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self.path = path
        self.size = 0
        self._file = os.fdopen(descriptor, "wb")
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Append `data`."""
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def finish(self) -> str:
        """Make the content durable and return its SHA-256."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._digest.hexdigest()

    def close(self) -> None:
        """Close the file; harmless when it is closed."""
        self._file.close()


class BlobStore:
    """A folder of contents: `blobs/ab/<sha256>`, with `partial/` for those on their way in."""

    def __init__(self, folder: Path) -> None:
        self._blobs = folder / "blobs"
        self._partial = folder / "partial"
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._partial.mkdir(exist_ok=True)

    def discard_partial(self) -> None:
        """Remove what uploads cut off by a crash left behind."""
        for left in self._partial.iterdir():
            left.unlink()

    def path(self, digest: str) -> Path:
        """Where the content of that (checked) digest lies or would lie."""
        return self._blobs / digest[:2] / digest

    def size(self, digest: str) -> int | None:
        """Size in bytes of a stored content, None when it is not here."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, digest: str) -> bytes:
        """A small content, whole."""
        return self.path(digest).read_bytes()

    @contextmanager
    def incoming(self) -> Iterator[Incoming]:
        """Open a temporary file for a content; it is gone after the block unless `keep` took it.

        Raises:
            UnavailableError: the disk is full.
        """
        with write_errors(self._blobs):
            descriptor, name = tempfile.mkstemp(dir=self._partial)
            incoming = Incoming(descriptor, Path(name))
            try:
                yield incoming
            finally:
                incoming.close()
                incoming.path.unlink(missing_ok=True)

    def keep(self, incoming: Incoming, *, digest: str | None = None, size: int | None = None) -> str:
        """Take a complete content into the store and return its SHA-256.

        Raises:
            HubError: 400 when the content has another size or digest than promised; nothing is stored then.
        """
        found = incoming.finish()
        if size is not None and size != incoming.size:
            raise HubError(400, f"Size mismatch: {size} bytes were promised and {incoming.size} arrived")
        if digest is not None and digest != found:
            raise HubError(400, f"Digest mismatch: {digest} was promised and the content that arrived has {found}")
        target = self.path(found)
        target.parent.mkdir(exist_ok=True)
        incoming.path.replace(target)
        fsync_folder(target.parent)
        return found

    def add(self, data: bytes) -> str:
        """Store a small content and return its SHA-256."""
        digest = hashlib.sha256(data).hexdigest()
        if self.size(digest) is not None:
            return digest
        with self.incoming() as incoming:
            incoming.write(data)
            return self.keep(incoming)

    def part_path(self, digest: str, number: int) -> Path:
        """Where one part of a multipart upload waits for the others."""
        return self._partial / f"{digest}.{number:05d}"

    def keep_part(self, incoming: Incoming, digest: str, number: int) -> str:
        """Hold one part of a multipart upload and return its SHA-256."""
        found = incoming.finish()
        incoming.path.replace(self.part_path(digest, number))
        return found

    def join_parts(self, digest: str, count: int) -> None:
        """Put `count` parts together under the digest that was promised.

        Raises:
            HubError: 400 when a part is missing or the whole has another digest.
        """
        parts = [self.part_path(digest, number) for number in range(1, count + 1)]
        missing = [number for number, part in enumerate(parts, 1) if not part.exists()]
        if missing:
            raise HubError(400, f"Part {missing[0]} of {count} of {digest} did not arrive")
        try:
            with self.incoming() as incoming:
                for part in parts:
                    with part.open("rb") as file:
                        while block := file.read(BLOCK):
                            incoming.write(block)
                self.keep(incoming, digest=digest)
        finally:
            for part in parts:
                part.unlink(missing_ok=True)
