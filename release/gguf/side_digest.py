"""A digest that is computed beside the work that brings the bytes."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor

WORTH_A_THREAD = 64 << 10
"""Smaller blocks are digested sooner than handed over."""


class SideDigest:
    """SHA-256 on a second thread, one block behind: digesting and copying take as long as the slower of the two."""

    def __init__(self, beginning: hashlib._Hash | None = None) -> None:
        self._digest = beginning or hashlib.sha256()
        self._helper = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def __enter__(self) -> SideDigest:
        """Itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """End the thread."""
        self._helper.shutdown(wait=True)

    def update(self, block: bytes) -> None:
        """Take the next block; the one before it is waited for."""
        self._wait()
        if len(block) < WORTH_A_THREAD:
            self._digest.update(block)
        else:
            self._pending = self._helper.submit(self._digest.update, block)

    def hexdigest(self) -> str:
        """SHA-256 of all blocks so far as lower-case hex."""
        self._wait()
        return self._digest.hexdigest()

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None
