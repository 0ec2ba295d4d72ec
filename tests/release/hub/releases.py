"""A small release to publish, and faults to put between the client and the rehearsal Hub."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Condition
from typing import TYPE_CHECKING, Any

from pruner.files import sha256_file
from pruner.progress import SILENT, Progress
from release.hub.announce import Gated
from release.hub.local import LocalHub
from release.hub.publish import Publication, Terms, commit_prepared, prepare

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

REPO = "org/model-GGUF"
PATIENCE = 300.0
"""Seconds after which something counts as hanging: far more than a busy machine needs."""
CARD = "---\nlicense: apache-2.0\n---\n# Card\n"


class Release:
    """Files of a release in a folder, with the digests that the lock would hold."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.files: dict[str, Path] = {}
        self.digests: dict[str, str] = {}
        self.folder = folder
        self.add("README.md", CARD.encode())
        self.add("model-Q6_K.gguf", random.Random(1).randbytes(5_000_000))
        self.add("model-Q4_K_M.gguf", random.Random(2).randbytes(70_000))
        self.add("reproduce/lock.json", b"{}\n")

    def add(self, path: str, data: bytes) -> None:
        local = self.folder / path.replace("/", "_")
        local.write_bytes(data)
        self.files[path] = local
        self.digests[path] = sha256_file(local)


def publish(
    repo: str,
    files: Mapping[str, Path],
    digests: Mapping[str, str],
    *,
    private: bool,
    message: str,
    tag: str | None,
    gated: Gated | None = None,
    prune_remote: bool = False,
    pull_request: bool = False,
    progress: Progress = SILENT,
    **options: Any,
) -> Publication:
    """A release of one repo."""
    terms = Terms(private, message, tag, gated, prune_remote=prune_remote, pull_request=pull_request)
    return commit_prepared(prepare(repo, files, digests, terms, progress=progress, **options), progress)


def push(hub: LocalHub, release: Release, **changes: Any) -> Publication:
    options: dict[str, Any] = {
        "endpoint": hub.endpoint,
        "token": hub.token,
        "private": False,
        "message": "v1",
        "tag": "v1",
        "pause": lambda _seconds: None,
    }
    return publish(REPO, release.files, release.digests, **{**options, **changes})


def api_of(hub: LocalHub) -> HfApi:
    """A client with the token of the Hub's own user."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=hub.endpoint, token=hub.token)


def titles(api: HfApi) -> list[str]:
    return [commit.title for commit in api.list_repo_commits(REPO)]


class Faults:
    """Stands before the Hub: what it does to each request is the test's choice."""

    def __init__(self) -> None:
        self.before: Callable[[str, str], int | None] = lambda _method, _path: None
        self.after: Callable[[str, str], int | None] = lambda _method, _path: None
        self.cuts: Callable[[str, str], bool] = lambda _method, _path: False
        self.seen: list[tuple[str, str]] = []
        self._quiet = Condition()
        self._answering = 0

    def wait_quiet(self) -> None:
        """Wait for the end of what is being answered: the Hub goes on with a request whose client was killed."""
        with self._quiet:
            assert self._quiet.wait_for(lambda: not self._answering, PATIENCE)

    def _count(self, change: int) -> None:
        with self._quiet:
            self._answering += change
            self._quiet.notify_all()

    def __call__(self, app: ASGIApp) -> ASGIApp:
        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            self._count(1)
            try:
                await spoiled(scope, receive, send)
            finally:
                self._count(-1)

        async def spoiled(scope: Scope, receive: Receive, send: Send) -> None:
            method, path = scope["method"], scope["path"]
            self.seen.append((method, path))
            status = self.before(method, path)
            if status is not None:
                await refuse(status, send)
                return
            if self.cuts(method, path):
                await cut(send)
                return

            async def altered(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message = {**message, "status": self.after(method, path) or message["status"]}
                await send(message)

            await app(scope, receive, altered)

        return guarded


async def refuse(status: int, send: Send) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def cut(send: Send) -> None:
    """An answer that breaks off: uvicorn closes the connection when less than the promised length was sent."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
    await send({"type": "http.response.body", "body": b"half", "more_body": False})


def on_commit(times: int, action: Callable[[], int | None]) -> Callable[[str, str], int | None]:
    left = [times]

    def choose(_method: str, path: str) -> int | None:
        if "/commit/" not in path or not left[0]:
            return None
        left[0] -= 1
        return action()

    return choose
