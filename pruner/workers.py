"""Who does the work: the caller's executor, or threads of our own; and how work ends that nobody waits for any more."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

Result = TypeVar("Result")


class AbandonedError(BaseException):
    """Ends work that nobody waits for any more.  Like asyncio's CancelledError it is no error that a handler should see."""


_here = threading.local()
"""`stop` is the event that ends the work of this thread, if its work can be ended."""


def require_wanted() -> None:
    """Raise AbandonedError in a worker that nobody waits for any more.

    Loops over blocks call it, so that an interrupt or a failure elsewhere takes a block's time and not a shard's.
    """
    stop = getattr(_here, "stop", None)
    if stop is not None and stop.is_set():
        raise AbandonedError


def pause(seconds: float) -> None:
    """Sleep, but not longer than the work is wanted; raises what `require_wanted` does."""
    stop = getattr(_here, "stop", None)
    if stop is None:
        time.sleep(seconds)
    elif stop.wait(seconds):
        raise AbandonedError


def _stoppable(stop: threading.Event, function: Callable[..., Result], *words: Any, **options: Any) -> Result:
    """Call a function whose loops `require_wanted`."""
    _here.stop = stop
    try:
        require_wanted()
        return function(*words, **options)
    finally:
        _here.stop = None


class _Workers(Executor):
    """An executor whose work ends together: with the first failure, or when nobody waits for it any more."""

    def __init__(self, executor: Executor, *, shared: bool) -> None:
        self._executor = executor
        self._shared = shared
        self._stop = threading.Event()
        self.pending: list[Future[Any]] = []
        self.failure: BaseException | None = None

    def submit(self, function: Callable[..., Result], /, *words: Any, **options: Any) -> Future[Result]:
        """Give work to the executor; workers of this process can be stopped in the middle of it."""
        call = partial(_stoppable, self._stop, function) if self._shared else function
        future = self._executor.submit(call, *words, **options)
        self.pending.append(future)
        future.add_done_callback(self._ended)
        if self._stop.is_set():
            future.cancel()
        return future

    def _ended(self, future: Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None and self.failure is None and not isinstance(error, AbandonedError):
            self.failure = error
            self.stop()

    def stop(self) -> None:
        """End work in progress, and begin no more."""
        self._stop.set()
        for future in self.pending:
            future.cancel()


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def executor_or_threads(executor: Executor | None, workers: int | None) -> Iterator[tuple[Executor, bool]]:
    """The given executor, or `workers` threads (default: one per core) that end with the block.

    When the block is left early, by an interrupt or because a piece of the work failed, the rest is not begun, and threads stop
    at their next `require_wanted`; other processes end what they are doing.  The first failure is the one that is raised.

    Yields:
        the executor, and whether its workers share this process and so may report progress as they go.
    """
    if executor is None:
        with ThreadPoolExecutor(workers or usable_cores()) as own, executor_or_threads(own, None) as found:
            yield found
        return
    shared = isinstance(executor, ThreadPoolExecutor)
    work = _Workers(executor, shared=shared)
    try:
        yield work, shared
    except (AbandonedError, CancelledError):
        if work.failure is None:
            raise
        raise work.failure from None
    finally:
        work.stop()
        wait([future for future in work.pending if not future.cancelled()])
