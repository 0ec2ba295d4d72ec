"""Requests to a llama-server, and replies that may be anything: each becomes a ledger line, never an exception."""

from __future__ import annotations

import dataclasses
import json
import reprlib
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from pruner.files import sha256_bytes

CONNECT_SECONDS = 10.0
LARGEST_REPLY = 64 << 20
"""Bytes; a reply beyond this is no answer to a question."""
LARGEST_NUMBER = 2**31
"""Of tokens and times; a number beyond this is none."""
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200


@dataclass(frozen=True)
class Answer:
    """What came back from one request; `error` is None only for a reply of the expected form."""

    status: int | None
    error: str | None
    text: str
    seconds: float
    body: dict[str, Any] = field(default_factory=dict)


def prompt_digest(messages: str) -> str:
    """SHA-256 of the messages of a prompt, as JSON text, hex."""
    return sha256_bytes(messages.encode())


class ServerClient(httpx.Client):
    """A client for one server: no proxy and no credentials from the environment.  Making one costs 0.1 s."""

    def __init__(self) -> None:
        super().__init__(trust_env=False)
        self._streams: list[Any] = []

    def build_request(self, *words: Any, **options: Any) -> httpx.Request:
        """Any request of this client; its connections are remembered for `abort`."""
        options["extensions"] = {**(options.get("extensions") or {}), "trace": self._remember}
        return super().build_request(*words, **options)

    def abort(self) -> None:
        """Break every request in flight, from any thread: closing a socket alone would not wake who reads from it."""
        for stream in self._streams:
            with suppress(OSError):
                stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    def _remember(self, event: str, info: dict[str, Any]) -> None:
        if event in {"connection.connect_tcp.complete", "connection.start_tls.complete"}:
            self._streams = [*self._streams[-1:], info["return_value"]]


def post(client: httpx.Client, url: str, fields: dict[str, Any], *, seconds: float) -> Answer:
    """POST JSON and wait at most `seconds` for the whole reply, however slowly it arrives."""
    return _request(client, "POST", url, fields, seconds=seconds)


def get(client: httpx.Client, url: str, *, seconds: float) -> Answer:
    """GET JSON and wait at most `seconds` for the whole reply."""
    return _request(client, "GET", url, None, seconds=seconds)


def _request(client: httpx.Client, method: str, url: str, fields: dict[str, Any] | None, *, seconds: float) -> Answer:
    start = time.monotonic()
    status: int | None = None
    limits = httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))
    try:
        with client.stream(method, url, json=fields, timeout=limits) as response:
            status = response.status_code
            text = _read(response, start + seconds)
    except httpx.TimeoutException:
        return Answer(None, f"time-out: no whole reply within {seconds:g} s", "", time.monotonic() - start)
    except httpx.HTTPError as error:
        return Answer(None, f"connection: {_one_line(str(error)) or type(error).__name__}", "", time.monotonic() - start)
    passed = time.monotonic() - start
    if status != httpx.codes.OK:
        return Answer(status, f"HTTP {status}: {_one_line(text)}", text, passed)
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Answer(status, f"malformed: not JSON: {_one_line(str(error))}", text, passed)
    if not isinstance(body, dict):
        return Answer(status, "malformed: not a JSON object", text, passed)
    return Answer(status, None, text, passed, body)


def _read(response: httpx.Response, deadline: float) -> str:
    """The body as text.  httpx limits the wait for each piece, not for all of them."""
    pieces, size = [], 0
    for piece in response.iter_bytes():
        size += len(piece)
        if time.monotonic() > deadline:
            raise httpx.ReadTimeout("the reply trickles")
        if size > LARGEST_REPLY:
            raise httpx.ReadError(f"the reply is larger than {LARGEST_REPLY} bytes")
        pieces.append(piece)
    return b"".join(pieces).decode("utf-8", errors="replace")


@dataclass(frozen=True)
class Message:
    """A chat or completion reply's parts; `error` says why it has no usable ones."""

    error: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    timings: dict[str, Any] = field(default_factory=dict)

    def fields(self) -> dict[str, Any]:
        """The same, as a ledger line has them."""
        return dataclasses.asdict(self)


def chat_message(body: dict[str, Any], alias: str) -> Message:
    """The parts of a /v1/chat/completions reply from the model called `alias`."""
    if error := _other_model(body, alias):
        return Message(error=error)
    try:
        choice = body["choices"][0]
        message, usage = choice["message"], body.get("usage") or {}
        return Message(
            content=clean_text(message["content"]),
            reasoning_content=clean_text(message.get("reasoning_content")),
            finish_reason=clean_text(choice["finish_reason"]),
            prompt_tokens=_count(usage.get("prompt_tokens")),
            completion_tokens=_count(usage.get("completion_tokens")),
            timings=_timings(body.get("timings")),
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        return Message(error=f"malformed: no chat reply: {type(error).__name__} at {_one_line(str(error))}")


def completion_message(body: dict[str, Any], alias: str) -> Message:
    """The parts of a /completion reply from the model called `alias`."""
    if error := _other_model(body, alias):
        return Message(error=error)
    try:
        return Message(
            content=clean_text(body["content"]),
            finish_reason="length" if body.get("stop_type") == "limit" else "stop",
            prompt_tokens=_count(body.get("tokens_evaluated")),
            completion_tokens=_count(body.get("tokens_predicted")),
            timings=_timings(body.get("timings")),
        )
    except (KeyError, TypeError) as error:
        return Message(error=f"malformed: no completion: {type(error).__name__} at {_one_line(str(error))}")


def _other_model(body: dict[str, Any], alias: str) -> str | None:
    found = body.get("model")
    return None if found == alias else f"malformed: the reply comes from model {shown(found)}, not from {alias!r}"


def shown(value: Any) -> str:
    """A foreign value in an error: all of a digest or a name, and not all of what is deep or endless."""
    return _SHORT.repr(value)


def _timings(value: Any) -> dict[str, Any]:
    """The numbers among them; nobody needs the rest, which may be anything."""
    found = value if isinstance(value, dict) else {}
    return {name: each for name, each in found.items() if isinstance(each, (int, float)) and abs(each) < LARGEST_NUMBER}


def clean_text(value: Any) -> str | None:
    """A string that UTF-8 can hold; JSON may carry half of a surrogate pair."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} instead of text")
    return value.encode("utf-8", errors="replace").decode()


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST_NUMBER else None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]
