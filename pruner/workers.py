"""Who does the work: the caller's executor, or threads of our own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def executor_or_threads(executor: Executor | None, workers: int | None) -> Iterator[tuple[Executor, bool]]:
    """The given executor, or `workers` threads (default: one per core) that end with the block.

    Yields:
        the executor, and whether its workers share this process and so may report progress as they go.
    """
    if executor is not None:
        yield executor, isinstance(executor, ThreadPoolExecutor)
        return
    own = ThreadPoolExecutor(workers or usable_cores())
    try:
        yield own, True
    finally:
        own.shutdown(wait=True, cancel_futures=True)
