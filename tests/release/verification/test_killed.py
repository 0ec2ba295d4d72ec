"""The command, killed while it proves weights: the next run goes on, reads no finished shard again, and says the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pruner.hub_source import hub_source
from release.hub.remote import hub_api
from tests.conftest import ROOT
from tests.end_to_end.conftest import COMMAND
from tests.release.hub.remote.repositories import upload
from tests.release.verification.releases import PublishedRelease, Stage

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

BASE = "org/base"
INTO = 3
"""Requests for bytes of the second shard until the command is killed: the first is proved, the second is not."""


class Watch:
    """Stands before the Hub: what was asked of storage, by content and range, and something to do at each request."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.meet: Callable[[], None] = lambda: None

    def __call__(self, app: ASGIApp) -> ASGIApp:
        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"].startswith("/objects/"):
                self.seen.append((scope["path"].rpartition("/")[2], dict(scope["headers"]).get(b"range", b"").decode()))
                self.meet()
            await app(scope, receive, send)

        return watched


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def watched(small_release: PublishedRelease, tmp_path: Path, watch: Watch) -> Iterator[Stage]:
    """The small release and its base on one Hub."""
    with small_release.staged(tmp_path, watch) as stage:
        upload(hub_api(stage.hub.endpoint, stage.hub.token), BASE, stage.base)
        yield stage


class Runs:
    """Runs of one command, each with the base's ranges that it asked for."""

    def __init__(self, stage: Stage, watch: Watch, words: tuple[str, ...]) -> None:
        base = hub_source(BASE, endpoint=stage.hub.endpoint, token=stage.hub.token)
        self.shards = {file.sha256 for name, file in base.files.items() if name.endswith(".safetensors")}
        self.stage, self.watch = stage, watch
        name, *options = words
        common = ("--base", f"hf://{BASE}@{base.commit}", "--workers", "1")
        self.words = [str(COMMAND), name, stage.address, *common, *options]

    def run(self, cache: Path, *, killed: bool = False) -> tuple[str, list[tuple[str, str]]]:
        """What it printed and asked; one that is to be killed dies in the middle of its second shard."""
        environment = {**os.environ, **self.stage.hub.environment(), "PYTHONPATH": str(ROOT), "MOE_RELEASE_CACHE": str(cache)}
        self.watch.seen.clear()
        process = subprocess.Popen(self.words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

        left = [INTO]

        def kill() -> None:
            left[0] -= len(proved(cache))
            if not left[0]:
                process.send_signal(signal.SIGKILL)

        self.watch.meet = kill if killed else lambda: None
        said, errors = process.communicate()
        assert process.returncode == (-signal.SIGKILL if killed else 0), errors
        return said, [each for each in self.watch.seen if each[0] in self.shards]


def proved(cache: Path) -> list[Path]:
    return [path for path in (cache / "planned-digests").glob("*") if not path.name.startswith(".")]


def told(said: str) -> Any:
    """What the command found, but for the time of day."""
    found = json.loads(said)
    if "predicate" in found:
        del found["predicate"]["date"]
    return found


@pytest.mark.parametrize("command", ["verify", "attest"])
def test_the_next_run_reads_no_finished_shard_again(watched: Stage, watch: Watch, tmp_path: Path, command: str) -> None:
    attest = ("attest", "--key", str(watched.keys / "alice.pem"), "--dry-run")
    runs = Runs(watched, watch, attest if command == "attest" else ("verify", "--json"))
    whole, asked = runs.run(tmp_path / "other")
    shards = len(proved(tmp_path / "other"))
    assert shards > 1
    cache = tmp_path / "cache"
    nothing, before = runs.run(cache, killed=True)
    assert (nothing, before) == ("", asked[: len(before)])
    assert len(proved(cache)) == 1
    again, after = runs.run(cache)
    assert told(again) == told(whole)
    headers = len(runs.shards)  # one request for the header of each of the base's files, in every run
    assert after == asked[:headers] + asked[len(before) - INTO :], "it begins with the second shard"
    assert len(proved(cache)) == shards


def test_a_remembered_digest_that_was_damaged_accuses_nobody(watched: Stage, watch: Watch, tmp_path: Path) -> None:
    runs = Runs(watched, watch, ("verify", "--json"))
    whole, _ = runs.run(tmp_path)
    for path in proved(tmp_path):
        path.write_text("0" * 64)
    assert told(runs.run(tmp_path)[0]) == told(whole)
    assert all(path.read_text() != "0" * 64 for path in proved(tmp_path))
