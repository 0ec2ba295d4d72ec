"""Repositories on the rehearsal Hub that are read by ranges with the real client, and faults between the two."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pruner.hub_source import HubSource, hub_source
from release.hub.local import LocalHub

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

BASE, TARGET = "org/base", "org/pruned"
NO_PAUSES = (0.0, 0.0, 0.0)
CARD = "---\nlicense: apache-2.0\n---\n# Card\n"


class Faults:
    """Stands before the Hub's downloads (`/resolve/` and storage) and does to each what the test says."""

    def __init__(self) -> None:
        self.status: Callable[[], int | None] = lambda: None
        self.ranges: Callable[[bytes], bytes | None] = lambda wanted: wanted
        self.cut_after: int | None = None
        self.seen: list[tuple[str, str, str]] = []
        self.sent = 0
        self.tokens_at_storage = 0

    def __call__(self, app: ASGIApp) -> ASGIApp:
        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            headers = dict(scope["headers"])
            wanted = headers.get(b"range", b"")
            self.seen.append((scope["method"], scope["path"], wanted.decode()))
            self.tokens_at_storage += scope["path"].startswith("/objects/") and b"authorization" in headers
            if "/resolve/" not in scope["path"] and not scope["path"].startswith("/objects/"):
                await app(scope, receive, send)
                return
            if (status := self.status()) is not None:
                await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
                await send({"type": "http.response.body", "body": b""})
                return
            if wanted:
                changed = self.ranges(wanted)
                kept = [(name, value) for name, value in scope["headers"] if name != b"range"]
                scope = {**scope, "headers": kept + ([(b"range", changed)] if changed is not None else [])}
            left = [self.cut_after]

            async def altered(message: Message) -> None:
                if message["type"] == "http.response.body":
                    body = message.get("body", b"")
                    self.sent += len(body)
                    if left[0] is not None and len(body) > left[0]:
                        await send({**message, "body": body[: left[0]], "more_body": True})
                        await asyncio.sleep(0.01)
                        raise ConnectionAbortedError
                    if left[0] is not None:
                        left[0] -= len(body)
                await send(message)

            await app(scope, receive, altered)

        return guarded

    def downloads(self, end: str = "") -> list[str]:
        """Ranges of the requests to storage or, for paths with that end, to the Hub."""
        return [wanted for _, path, wanted in self.seen if (path.endswith(end) if end else path.startswith("/objects/"))]


def upload(api: HfApi, repo: str, folder: Path, *, private: bool = False) -> str:
    from huggingface_hub import CommitOperationAdd

    api.create_repo(repo, private=private, exist_ok=True)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    operations = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
    return str(api.create_commit(repo, operations, commit_message="weights").oid)


def remote(hub: LocalHub, repo: str = BASE, revision: str = "main", token: str | None = None) -> HubSource:
    return hub_source(repo, revision, endpoint=hub.endpoint, token=token or hub.token, pauses=NO_PAUSES)


def run_cli(hub: LocalHub, *words: object) -> subprocess.CompletedProcess[str]:
    code = "from release.cli import main; main()"
    environment = {**os.environ, **hub.environment()}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False, env=environment
    )
