"""Work that nobody waits for any more ends with its next block, and the failure that ended it is the one that is raised.

A file of a tebibyte that takes no disk stands for a large shard: whoever reads it to its end is not seen again.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from pruner.build import build
from pruner.checkpoint import open_checkpoint
from pruner.drop_map import DropMap
from pruner.errors import InputError
from pruner.files import sha256_file
from pruner.plan import plan_build
from pruner.safetensors_format import build_header
from pruner.sources import LocalSource
from pruner.tensor_digests import digest_shard
from pruner.workers import executor_or_threads, pause
from tests.conftest import CheckpointFactory

HUGE = 1 << 40


@pytest.fixture
def huge(tmp_path: Path) -> Path:
    header = build_header([("a", "U8", (HUGE,))], "none")
    path = tmp_path / "huge" / "model.safetensors"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + HUGE)
    return path


def read_all(path: Path) -> None:
    for _ in LocalSource(path.parent).blocks(path.name, 0, HUGE):
        pass


def wait_long(_path: Path) -> None:
    pause(10**6)


READERS = [read_all, sha256_file, digest_shard, wait_long]


@pytest.fixture(params=["own", "threads"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor | None]:
    if request.param == "own":
        yield None
        return
    with ThreadPoolExecutor(2) as threads:
        yield threads


@pytest.mark.parametrize("read", READERS)
def test_an_interrupt_does_not_wait_for_shards(huge: Path, executor: Executor | None, read: Callable[[Path], object]) -> None:
    began = threading.Event()

    def work() -> None:
        began.set()
        read(huge)

    def interrupted() -> None:
        with executor_or_threads(executor, 2) as (pool, _):
            pending.extend(pool.submit(work) for _ in range(4))
            began.wait()
            raise KeyboardInterrupt

    pending: list[Future[None]] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert all(future.done() for future in pending)


def fail(path: Path) -> None:
    raise InputError(f"{path.name}: is no shard")


def results_of(executor: Executor | None, path: Path, *work: Callable[[Path], object]) -> None:
    """Do all of the work, and wait for one result after the other."""
    with executor_or_threads(executor, 2) as (pool, _):
        for future in [pool.submit(each, path) for each in work]:
            future.result()


@pytest.mark.parametrize("read", READERS)
def test_a_failure_ends_the_others_and_is_the_one_that_is_raised(
    huge: Path, executor: Executor | None, read: Callable[[Path], object]
) -> None:
    with pytest.raises(InputError, match=r"model\.safetensors: is no shard"):
        results_of(executor, huge, read, fail, read)


def test_an_executor_is_as_good_as_before(huge: Path, executor: Executor | None) -> None:
    """What ended one piece of work does not end the next that its threads do."""
    for _ in range(2):
        with pytest.raises(InputError):
            results_of(executor, huge, read_all, fail)
    with executor_or_threads(executor, 2) as (pool, _):
        assert list(pool.map(str, range(5))) == list("01234")


def touch_another(path: Path) -> None:
    path.with_name(f"{time.monotonic_ns()}").touch()


def test_processes_begin_no_more_work(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1) as processes:
        with pytest.raises(InputError, match="is no shard"):
            results_of(processes, tmp_path / "x", fail, *[touch_another] * 500)
        begun = len(list(tmp_path.iterdir()))
    assert begun < 500
    assert len(list(tmp_path.iterdir())) == begun, "what was begun had ended"


class Failing(LocalSource):
    """A folder whose second shard cannot be read; the first is read only after that was noticed."""

    def blocks(self, name: str, start: int, length: int) -> Iterator[bytes]:
        if "00002" in name:
            raise InputError(f"{name}: a bad sector")
        pause(10**6)
        yield from super().blocks(name, start, length)


def test_a_build_with_an_unreadable_shard_ends_and_goes_on_later(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base = make_checkpoint()
    drop = {"0": (1, 2, 7), "1": (0, 3, 4), "2": (5, 6, 7)}
    plan = plan_build(open_checkpoint(base), DropMap(drop), base_name={"name": "b"}, max_shard_size=10_000)
    with pytest.raises(InputError, match="a bad sector"):
        build(plan, Failing(base), tmp_path / "out", workers=8)
    assert not list((tmp_path / ".out.partial").glob(".*.tmp"))
    build(plan, base, tmp_path / "out")
    assert (tmp_path / "out" / "config.json").exists()


def reads_now(process: int, path: Path) -> bool:
    """Whether a process has a file open."""
    with suppress(OSError):  # a file that is closed meanwhile, or the end of the process
        return any(each.readlink() == path for each in Path(f"/proc/{process}/fd").iterdir())
    return False


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_command(huge: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  {huge.name}\n")
    script = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\nfrom release.cli import main; main()"
    words = [sys.executable, "-c", script, "verify", huge.parent, "--against", tmp_path / "SHA256SUMS"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        while not (reads := reads_now(process.pid, huge)) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        _, said = process.communicate()
    assert reads, said
    assert process.returncode == code
    assert said == "moe-release: interrupted; run the same command again to go on from what is finished\n"
