"""A folder or a build that only one process may work on at a time."""

from __future__ import annotations

import errno
import fcntl
import os
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


@contextmanager
def exclusive_folder(folder: Path, busy: str) -> Iterator[None]:
    """Hold a folder itself until the block is left, also when it is renamed meanwhile; nothing is left in it or beside it.

    Where a file system has no locks, nothing is held.

    Raises:
        UnavailableError: another process holds it, or has moved it on just now; the message is `busy`.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        raise UnavailableError(busy) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise UnavailableError(busy) from None
        held = os.fstat(descriptor)
        if not folder.exists() or (folder.stat().st_dev, folder.stat().st_ino) != (held.st_dev, held.st_ino):
            raise UnavailableError(busy)
        yield
    finally:
        os.close(descriptor)
