from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from pruner.errors import UnavailableError
from release.gguf import side_by_side
from release.gguf.reader import read_header
from release.gguf.side_by_side import OVERHEAD, free_memory, how_many, memory_of_quantize, run_all
from release.processes import run_tool

GIB = 1 << 30


def test_memory_follows_the_largest_tensor(small_model: Path):
    assert memory_of_quantize(read_header(small_model)) == OVERHEAD + 512 * (4 + 4 + 4)


def test_the_system_tells_its_free_memory():
    free = free_memory()
    assert free is None or free > 1 << 20


@pytest.mark.parametrize(
    ("jobs", "need", "budget", "threads", "expected"),
    [
        (8, 2 * GIB, 7 * GIB, 1, 3),
        (2, 2 * GIB, 7 * GIB, 1, 2),
        (8, 2 * GIB, 64 * GIB, 4, 2),
        (8, 2 * GIB, 64 * GIB, 16, 1),
        (8, 2 * GIB, 1 * GIB, 1, 1),
        (8, 2 * GIB, None, 1, 5),
        (0, 2 * GIB, None, 1, 1),
    ],
)
def test_as_many_run_as_memory_and_cores_allow(
    monkeypatch: pytest.MonkeyPatch, jobs: int, need: int, budget: int | None, threads: int, expected: int
):
    monkeypatch.setattr(side_by_side, "free_memory", lambda: 20 * GIB)
    monkeypatch.setattr(side_by_side.os, "sched_getaffinity", lambda _pid: range(8), raising=False)
    assert how_many(jobs=jobs, need=need, budget=budget, threads=threads) == expected


@pytest.mark.parametrize("at_a_time", [1, 3])
def test_results_come_in_order_whoever_is_first(at_a_time: int):
    last = threading.Event()

    def job(number: int) -> int:
        if at_a_time == 3 and number == 0:
            assert last.wait(300)
        if number == 2:
            last.set()
        return number

    assert run_all([partial(job, number) for number in range(3)], at_a_time=at_a_time) == [0, 1, 2]
    last.clear()
    with ThreadPoolExecutor(3) as executor:
        assert run_all([partial(job, number) for number in (1, 2)], executor) == [1, 2]


def test_after_a_failure_those_that_run_finish_and_the_others_are_not_begun():
    begun, failed, finished = [], threading.Event(), []

    def job(number: int) -> int:
        begun.append(number)
        if number == 1:
            failed.set()
            raise UnavailableError("the second fails")
        if number == 0:
            assert failed.wait(300)
            finished.append(number)
        return number

    with pytest.raises(UnavailableError, match="the second fails"):
        run_all([partial(job, number) for number in range(6)], at_a_time=2)
    assert finished == [0]
    assert sorted(begun) == [0, 1]


def test_the_first_error_in_order_is_told():
    both = threading.Barrier(2)

    def job(number: int) -> None:
        both.wait(300)
        raise UnavailableError(f"number {number}")

    with pytest.raises(UnavailableError, match="number 0"):
        run_all([partial(job, number) for number in range(2)], at_a_time=2)


def test_a_program_that_is_told_to_stop_stops_its_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    running = threading.Event()
    ended: list[str] = []

    def job() -> None:
        command = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
        try:
            run_tool(command, log=tmp_path / "log", on_line=lambda _line: running.set())
        except UnavailableError as error:
            ended.append(str(error))
            raise

    def interrupted(_futures: object) -> None:
        assert running.wait(300)
        raise KeyboardInterrupt

    monkeypatch.setattr(side_by_side, "wait", interrupted)  # where Ctrl-C reaches the main thread
    with pytest.raises(KeyboardInterrupt):
        run_all([job], at_a_time=1)
    assert "killed by signal 15" in ended[0]
