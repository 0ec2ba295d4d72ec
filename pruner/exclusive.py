"""A folder or a build that only one process may work on at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pruner.errors import UnavailableError


@contextmanager
def exclusive(lock_file: Path, busy: str, *, wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold `lock_file` until the block is left; the operating system frees it when the process ends, however that happens.

    Args:
        lock_file: made when it is missing, and left there.
        busy: what is wrong when another process holds it, and what to do.
        wait: is told `busy` once, and the other process is waited for; None to give up at once.

    Raises:
        UnavailableError: another process holds it, and `wait` is None; the message is `busy`.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(lock_file, thread_local=False)  # who leaves the block need not be the thread that entered it
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if wait is None:
            raise UnavailableError(busy) from None
        wait(busy)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
