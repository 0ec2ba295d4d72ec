"""A Hub that lies in its listings."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

Change = Callable[[list[Any]], list[Any]]


class Lying:
    """Stands before the Hub: every listing of files passes through `change`."""

    def __init__(self) -> None:
        self.change: Change = lambda items: items

    def __call__(self, app: ASGIApp) -> ASGIApp:
        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            if "/tree/" not in scope.get("path", ""):
                await app(scope, receive, send)
                return
            messages: list[Message] = []

            async def keep(message: Message) -> None:
                messages.append(message)

            await app(scope, receive, keep)
            body = b"".join(message.get("body", b"") for message in messages if message["type"] == "http.response.body")
            if messages[0]["status"] == 200:
                body = json.dumps(self.change(json.loads(body))).encode()
            headers = [(name, value) for name, value in messages[0]["headers"] if name.lower() != b"content-length"]
            await send({**messages[0], "headers": [*headers, (b"content-length", str(len(body)).encode())]})
            await send({"type": "http.response.body", "body": body})

        return guarded


def a_file(path: str, size: int = 5) -> dict[str, Any]:
    """One row of a listing."""
    return {"type": "file", "oid": "a" * 40, "size": size, "path": path}
