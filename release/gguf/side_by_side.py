"""Several tools at a time, as many as memory and cores allow.  How many that are changes the time, never a byte."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pruner.workers import usable_cores
from release.gguf.reader import GgufHeader
from release.processes import stop_tools

Result = TypeVar("Result")

OVERHEAD = 256 << 20
"""Bytes of a llama-quantize beside its tensors: code, metadata, the imatrix."""
FLOAT32 = 4


def memory_of_quantize(header: GgufHeader) -> int:
    """Bytes that llama-quantize takes at most for a model.

    It works on one tensor at a time: the tensor as it is stored, the same in float32, and the result, which older versions
    allocate as large as the float32 copy (`llama_model_quantize_impl` of llama.cpp).  Pages of the mapped file are not counted:
    the system takes them back.
    """
    return OVERHEAD + max((each.size + 2 * FLOAT32 * each.elements for each in header.tensors), default=0)


def free_memory() -> int | None:
    """Bytes of memory that nobody uses, as far as the system tells."""
    with suppress(OSError, ValueError, AttributeError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    with suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def how_many(*, jobs: int, need: int, budget: int | None, threads: int) -> int:
    """How many of `jobs` tools may run at a time, at least one.

    Args:
        jobs: tools that are to run.
        need: bytes that one takes.
        budget: bytes for all; half of the free memory when None.
        threads: of one tool, each of which wants a core.
    """
    free = free_memory()
    bytes_for_all = budget if budget is not None else (free // 2 if free is not None else need)
    return max(1, min(jobs, bytes_for_all // max(1, need), usable_cores() // threads))


def run_all(jobs: Sequence[Callable[[], Result]], executor: Executor | None = None, *, at_a_time: int = 1) -> list[Result]:
    """Run jobs that wait for tools, and give their results in order.

    When one fails, those that have begun are let finish, for their results last; the others are not begun.  When the program is
    told to stop, the tools are stopped too.

    Args:
        jobs: each runs its tool with `run_tool`.
        executor: of threads, since jobs only wait; threads of our own when None.
        at_a_time: number of these threads.

    Raises:
        Exception: that of the first job, in order, that failed.
    """
    pool = executor or ThreadPoolExecutor(at_a_time)
    failed = threading.Event()
    futures = [pool.submit(_run, job, failed) for job in jobs]
    try:
        wait(futures)
    except BaseException:  # Ctrl-C or SIGTERM: not an error of a job, those stay in their futures
        failed.set()
        stop_tools()
        raise
    finally:
        if executor is None:
            pool.shutdown(wait=True, cancel_futures=True)
    if errors := [error for each in futures if (error := each.exception()) and not isinstance(error, _NotBegunError)]:
        raise errors[0]
    return [each.result() for each in futures]


class _NotBegunError(Exception):
    """A job that was not begun because another one had failed."""


def _run(job: Callable[[], Result], failed: threading.Event) -> Result:
    """Run a job unless one failed; said in the worker, for the caller hears of a failure when the next job has begun."""
    if failed.is_set():
        raise _NotBegunError
    try:
        return job()
    except BaseException:
        failed.set()
        raise
