"""Publishing through a bad network to a failing Hub: afterwards the head is the old release or the new one, whole."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pruner.errors import CheckFailedError, UnavailableError
from pruner.files import git_blob_id
from release.hub.local import LocalHub
from tests.release.hub.releases import CARD, REPO, Faults, Release, api_of, cut, push, titles

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

ROOT = Path(__file__).resolve().parents[3]
PLACES = (
    "/api/repos/create",
    "/api/validate-yaml",
    "/revision/main",
    "/tree/",
    "/refs",
    "/preupload/",
    "/info/lfs/objects/batch",
    "/objects/",
    "/info/lfs/verify",
    "/commit/",
    "/paths-info/",
    "/resolve/",
    "/tag/",
)


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_every_endpoint_may_fail_once(
    faulty: LocalHub, faulty_api: HfApi, faults: Faults, release: Release, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """One release in which each endpoint answers its first request with an error; whoever is asked again is named."""
    hit: set[str] = set()

    def once(_method: str, path: str) -> int | None:
        place = next((place for place in PLACES if place in path and place not in hit), None)
        if place is None:
            return None
        hit.add(place)
        return status

    faults.before = once
    push(faulty, release)
    assert hit == set(PLACES)
    again = [record.getMessage() for record in caplog.records if record.msg == "asking %s again"]
    assert len(again) > 5
    assert set(again) == {f"asking {faulty.endpoint} again"}
    assert titles(faulty_api) == ["v1", "initial commit"]


class Wire:
    """Does something to the bodies of uploads, or answers with headers of its own."""

    def __init__(self) -> None:
        self.cut = self.flip = 0
        self.retry_after = 0
        self.waits: list[float] = []

    def __call__(self, app: ASGIApp) -> ASGIApp:
        async def wired(scope: Scope, receive: Receive, send: Send) -> None:
            upload = scope["method"] == "PUT" and scope["path"].startswith("/objects/")
            if self.retry_after and "/preupload/" in scope["path"]:
                self.retry_after -= 1
                headers = [(b"retry-after", b"1"), (b"content-length", b"0")]
                await send({"type": "http.response.start", "status": 429, "headers": headers})
                await send({"type": "http.response.body", "body": b""})
            elif upload and self.cut:
                self.cut -= 1
                await receive()
                await cut(send)
            elif upload and self.flip:
                self.flip -= 1
                await app(scope, _damaged(receive), send)
            else:
                await app(scope, receive, send)

        return wired


def _damaged(receive: Receive) -> Receive:
    async def changed() -> Message:
        message = await receive()
        body = message.get("body", b"")
        return {**message, "body": bytes([body[0] ^ 1]) + body[1:]} if body else message

    return changed


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def wired(tmp_path: Path, wire: Wire) -> object:
    with LocalHub(tmp_path / "hub", wrap=wire) as hub:
        yield hub


def test_a_rate_limit_with_retry_after_is_waited_for(wired: LocalHub, wire: Wire, release: Release) -> None:
    wire.retry_after = 2
    push(wired, release)
    assert wire.retry_after == 0
    assert titles(api_of(wired)) == ["v1", "initial commit"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_connection_cut_in_the_middle_of_an_upload_is_made_again(wired: LocalHub, wire: Wire, release: Release) -> None:
    wire.cut = 2
    push(wired, release)
    assert wire.cut == 0
    assert titles(api_of(wired)) == ["v1", "initial commit"]


class CutCommits:
    """Breaks the answers to commits off: the first before the Hub has seen one, the others after it was made."""

    def __init__(self) -> None:
        self.unseen = self.made = 0

    def __call__(self, app: ASGIApp) -> ASGIApp:
        async def cutting(scope: Scope, receive: Receive, send: Send) -> None:
            if "/commit/" not in scope["path"] or not (self.unseen or self.made):
                await app(scope, receive, send)
            elif self.unseen:
                self.unseen -= 1
                await receive()
                await cut(send)
            else:
                self.made -= 1

                async def swallow(_message: Message) -> None: ...

                await app(scope, receive, swallow)
                await cut(send)

        return cutting


@pytest.mark.parametrize(("unseen", "made"), [(1, 0), (0, 1), (2, 1)])
def test_a_commit_whose_answer_breaks_off_is_made_once(tmp_path: Path, release: Release, unseen: int, made: int) -> None:
    cuts = CutCommits()
    with LocalHub(tmp_path / "hub", wrap=cuts) as hub:
        cuts.unseen, cuts.made = unseen, made
        assert push(hub, release).changed
        assert (cuts.unseen, cuts.made) == (0, 0)
        assert titles(api_of(hub)) == ["v1", "initial commit"]


def test_a_bit_flipped_on_its_way_is_refused_on_arrival(wired: LocalHub, wire: Wire, release: Release) -> None:
    wire.flip = 1
    with pytest.raises(CheckFailedError, match="Digest mismatch"):
        push(wired, release)
    assert titles(api_of(wired)) == ["initial commit"]
    assert push(wired, release).changed


def test_a_full_disk_of_the_hub_leaves_the_old_release(
    hub: LocalHub, api: HfApi, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(hub, release)
    release.add("model-Q6_K.gguf", random.Random(3).randbytes(5_000_000))

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("release.hub.server.blobs.os.fsync", full)
    with pytest.raises(UnavailableError, match=r"507.*no space left"):
        push(hub, release, message="v2", tag="v2")
    monkeypatch.undo()
    assert titles(api) == ["v1", "initial commit"]
    assert push(hub, release, message="v2", tag="v2").changed


PUBLISH = """
import json, sys
from pathlib import Path
from tests.release.hub.releases import publish
job = json.load(sys.stdin)
files = {name: Path(path) for name, path in job["files"].items()}
publish(job["repo"], files, job["digests"], endpoint=None, token=None, private=True, message="next", tag=None)
"""


@pytest.mark.slow
def test_a_publisher_killed_at_twenty_random_moments_leaves_the_old_release_or_the_new(
    faulty: LocalHub, faulty_api: HfApi, faults: Faults, release: Release, tmp_path: Path
) -> None:
    """Each run has a release of its own to publish and dies by SIGKILL at its N-th request; the last one lives."""
    push(faulty, release, private=True)
    rng = random.Random(7)
    environment = {**os.environ, **faulty.environment(), "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    killed = 0
    for number in range(20):
        release.add(f"shard-{number}.safetensors", rng.randbytes(60_000))
        release.add("README.md", f"{CARD}{number}\n".encode())
        before = tree_of(faulty_api)
        killed += killed_at_request(faults, rng.randrange(1, 26), release, environment)
        now = tree_of(faulty_api)
        whole = set(now) == {*release.files, ".gitattributes"} and now["README.md"] == git_blob_id(f"{CARD}{number}\n".encode())
        assert whole or now == before
    assert killed >= 10
    push(faulty, release, private=True, message="last", tag="last")
    assert set(tree_of(faulty_api)) == {*release.files, ".gitattributes"}
    assert faulty_api.model_info(REPO, revision="last").sha == faulty_api.model_info(REPO).sha


def tree_of(api: HfApi) -> dict[str, str]:
    return {item.path: item.blob_id for item in api.list_repo_tree(REPO, recursive=True) if hasattr(item, "blob_id")}


def killed_at_request(faults: Faults, count: int, release: Release, environment: dict[str, str]) -> bool:
    """Run a publisher that is killed when its request number `count` arrives; whether that happened."""
    files = {name: str(path) for name, path in release.files.items()}
    job = json.dumps({"repo": REPO, "files": files, "digests": release.digests})
    process = subprocess.Popen([sys.executable, "-c", PUBLISH], stdin=subprocess.PIPE, env=environment, text=True)
    left = [count]

    def count_down(_method: str, _path: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            process.kill()

    faults.before = count_down
    process.communicate(job)
    faults.before = lambda _method, _path: None
    faults.wait_quiet()
    return process.returncode == -9
