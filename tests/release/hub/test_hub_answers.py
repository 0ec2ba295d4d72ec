"""A Hub that answers what no Hub answers: each reader gives one line, soon, and holds no more than an answer may have."""

from __future__ import annotations

import json
import logging
import socket
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruner import hub_answers, hub_failures
from pruner.checkpoint import open_checkpoint
from pruner.errors import MoeReleaseError, UnavailableError
from pruner.hub_source import hub_source, whole_listing
from release.gguf.located import locate_on_hub
from release.hub.remote import files_at, hub_api, remote_tree
from release.verification.request import Request
from release.verification.run import verify_published
from tests.hostile import FUZZ, assert_one_line, changed_json

COMMIT, DIGEST = "c" * 40, "d" * 64
INFO = {"id": "org/model", "sha": COMMIT, "private": False, "siblings": [{"rfilename": "config.json"}]}
TREE = [
    {"type": "file", "path": "config.json", "size": 2, "oid": "a" * 40},
    {"type": "file", "path": "model.gguf", "size": 9, "oid": "b" * 40, "lfs": {"oid": DIGEST, "size": 9, "pointerSize": 99}},
    {"type": "directory", "path": "reproduce", "size": 0, "oid": "e" * 40},
]


class Liar:
    """A server of one answer for each of the three kinds of addresses; `file` may be any headers and any body."""

    def __init__(self) -> None:
        self.info, self.tree = json.dumps(INFO).encode(), json.dumps(TREE).encode()
        self.status, self.headers, self.body = 200, {"Content-Length": "2"}, b"{}"
        self.endless = False
        self.endpoint = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path
        if "/resolve/" in path or self.endless:
            handler.send_response(self.status)
            for name, value in self.headers.items():
                handler.send_header(name, value)
            handler.end_headers()
            self._write(handler)
            return
        body = self.tree if "/tree/" in path else self.info
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def _write(self, handler: BaseHTTPRequestHandler) -> None:
        try:
            handler.wfile.write(self.body)
            while self.endless:
                handler.wfile.write(b"[" * (1 << 16))
        except ConnectionError:
            return


@pytest.fixture
def liar() -> Iterator[Liar]:
    yield from served(Liar())


def served(liar: Liar) -> Iterator[Liar]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            liar.answer(self)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            liar.answer(self)

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        server.daemon_threads = True
        liar.endpoint = f"http://127.0.0.1:{server.server_port}"
        Thread(target=server.serve_forever, daemon=True).start()
        yield liar
        server.shutdown()


def listed(endpoint: str) -> object:
    return whole_listing(hub_source("org/model", endpoint=endpoint, pauses=()))


def opened(endpoint: str) -> object:
    return open_checkpoint(hub_source("org/model", endpoint=endpoint, pauses=()))


def located(endpoint: str) -> object:
    return locate_on_hub("org/model", COMMIT, "model.gguf", endpoint=endpoint)


def looked_at(endpoint: str) -> object:
    return remote_tree(hub_api(endpoint, None), "org/model")


def verified(endpoint: str) -> object:
    return verify_published(Request("org/model", endpoint=endpoint))


READERS = (listed, opened, located, looked_at, verified)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What may pass is tried again without a pause."""
    monkeypatch.setattr("pruner.hub_failures.BACK_OFF", (0.0, 0.0))
    monkeypatch.setattr("pruner.hub_source.time.sleep", lambda _seconds: None)


@pytest.mark.timeout(300)
@FUZZ
@given(data=st.data(), of_tree=st.booleans(), reader=st.sampled_from([listed, opened, looked_at, verified]))
def test_listings(liar: Liar, data: st.DataObject, of_tree: bool, reader: Callable[[str], object]) -> None:
    liar.info, liar.tree = json.dumps(INFO).encode(), json.dumps(TREE).encode()
    changed = data.draw(changed_json(TREE if of_tree else INFO))
    liar.info, liar.tree = (liar.info, changed) if of_tree else (changed, liar.tree)
    try:
        reader(liar.endpoint)
    except MoeReleaseError as error:
        assert_one_line(error, "org/model")


def test_a_commit_too_long_for_an_address(liar: Liar) -> None:
    liar.info = json.dumps(INFO | {"sha": "a" * (1 << 17)}).encode()
    for reader in (listed, opened, looked_at, verified):
        with pytest.raises(MoeReleaseError) as error:
            reader(liar.endpoint)
        assert_one_line(error.value, "org/model")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("reader", [opened, located])
@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (200, {"Content-Length": "2"}, b"[]"),
        (200, {"Content-Length": "999999999999"}, b"{}"),
        (200, {"Content-Length": "-1"}, b"{}"),
        (200, {"Content-Length": "x"}, b"{}"),
        (200, {}, b"{}" * 100_000),
        (200, {"Content-Length": "2", "Content-Encoding": "gzip"}, b"{}"),
        (206, {"Content-Length": "2", "Content-Range": "bytes 0-1/99"}, b"{}"),
        (204, {}, b""),
        (302, {"Location": "file:///etc/passwd", "Content-Length": "0"}, b""),
        (302, {"Location": "/org/model/resolve/loop", "Content-Length": "0"}, b""),
        (302, {"Location": "http://127.0.0.1:1/", "Content-Length": "0"}, b""),
        (302, {"Location": "http://[", "Content-Length": "0"}, b""),
        (302, {"Location": "\x01", "Content-Length": "0"}, b""),
        (302, {"Content-Length": "0"}, b""),
        (404, {"X-Error-Message": "\x1b[2J" * 999, "Content-Length": "0"}, b""),
        (401, {"Content-Length": "0"}, b""),
        (503, {"Retry-After": "9" * 400, "Content-Length": "0"}, b""),
        (500, {"Content-Length": "4"}, b"\xff\xfe\x00{"),
    ],
)
def test_downloads(liar: Liar, reader: Callable[[str], object], status: int, headers: dict[str, str], body: bytes) -> None:
    liar.status, liar.headers, liar.body = status, headers, body
    with pytest.raises(MoeReleaseError) as error:
        reader(liar.endpoint)
    assert_one_line(error.value, "org/model")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("headers", [{}, {"Content-Type": "application/json"}, {"Content-Encoding": "gzip"}])
@pytest.mark.parametrize("reader", READERS)
def test_an_answer_without_end(
    liar: Liar, reader: Callable[[str], object], headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_answers, "LARGEST_ANSWER", 1 << 20)
    liar.endless, liar.headers = True, headers
    tracemalloc.start()
    try:
        with pytest.raises(UnavailableError) as error:
            reader(liar.endpoint)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert_one_line(error.value, "org/model")
    assert peak < 32 << 20


ASKING: list[Callable[[str], object]] = [
    lambda endpoint: hub_source("org/model", endpoint=endpoint, pauses=(0.0,)),
    lambda endpoint: remote_tree(hub_api(endpoint, None), "org/model"),
    lambda endpoint: files_at(hub_api(endpoint, None), "org/model", COMMIT, ["x"]),
]


@contextmanager
def mute() -> Iterator[str]:
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_hub_that_never_answers_is_named_and_left(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(hub_answers, "LONGEST_SILENCE", 0.1)
    monkeypatch.setattr(hub_failures, "SILENT_SECONDS", 10**6)
    monkeypatch.setattr(hub_failures, "BACK_OFF", (0.0,))
    for read in ASKING:
        caplog.clear()
        with mute() as endpoint:
            with pytest.raises(UnavailableError, match=f"{endpoint}.*HF_ENDPOINT"):
                read(endpoint)
            assert caplog.messages == [f"asking {endpoint} again"]


@pytest.mark.parametrize("read", ASKING)
def test_a_hub_that_takes_its_time_is_named_and_waited_for(
    read: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers once the user has been told whom the command waits for."""
    monkeypatch.setattr(hub_failures, "SILENT_SECONDS", 0.01)
    told: list[str] = []
    now = Event()

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())
            now.set()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        now.wait()
        rows = [{**TREE[0], "path": "x"}]
        send(handler, 200, json.dumps(INFO if "/revision/" in handler.path else rows).encode())

    listening = Listening()
    hub_failures.LOG.addHandler(listening)
    try:
        with answering(answer) as endpoint:
            read(endpoint)
            assert told[0] == f"waiting for {endpoint}"
    finally:
        hub_failures.LOG.removeHandler(listening)


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A server that does to each request what the test says."""

    class Answering(Liar):
        def answer(self, handler: BaseHTTPRequestHandler) -> None:
            with suppress(ConnectionError):
                answer(handler)

    yield from (liar.endpoint for liar in served(Answering()))


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", /, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content_Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def send_without_end(handler: BaseHTTPRequestHandler, status: int, **headers: str) -> None:
    send(handler, status, Content_Length=str(1 << 40), **headers)
    while True:
        handler.wfile.write(b"[" * (1 << 16))


def lost_connection(handler: BaseHTTPRequestHandler) -> None:
    """The first page leads to where nobody listens, on which huggingface_hub makes a new client; then nothing ends."""
    if "/tree/" not in handler.path:
        send(handler, 200, json.dumps(INFO).encode())
    elif handler.server.__dict__.setdefault("pages", []):
        send_without_end(handler, 200)
    else:
        handler.server.__dict__["pages"].append(handler.path)
        send(handler, 200, json.dumps(TREE).encode(), Link='<http://127.0.0.1:9/>; rel="next"')


def led_away(handler: BaseHTTPRequestHandler) -> None:
    """The question is sent on to an address that looks like none of the API."""
    if handler.path == "/x":
        send_without_end(handler, 200)
    else:
        send(handler, 302, Location="/x")


def endless_redirect(handler: BaseHTTPRequestHandler) -> None:
    """A download is sent on, with a body that does not end."""
    if "/resolve/" in handler.path:
        send_without_end(handler, 302, Location="/x")
    else:
        send(handler, 200, json.dumps(TREE if "/tree/" in handler.path else INFO).encode())


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("answer", "reader"),
    [
        (lost_connection, listed),
        (lost_connection, looked_at),
        (led_away, listed),
        (led_away, looked_at),
        (endless_redirect, opened),
    ],
)
def test_the_bounds_hold_after_a_lost_connection_and_a_redirect(
    answer: Callable[[BaseHTTPRequestHandler], None], reader: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_answers, "LARGEST_ANSWER", 1 << 20)
    with answering(answer) as endpoint:
        tracemalloc.start()
        try:
            with pytest.raises(UnavailableError) as error:
                reader(endpoint)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert_one_line(error.value, "org/model")
    assert peak < 32 << 20


def test_a_silent_redirect_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_answers, "LONGEST_SILENCE", 0.2)
    monkeypatch.setattr(hub_failures, "BACK_OFF", ())
    with (
        mute() as silent,
        answering(lambda handler: send(handler, 302, Location=f"{silent}/x")) as endpoint,
        pytest.raises(UnavailableError, match=f"connection to {endpoint}"),
    ):
        hub_source("org/model", endpoint=endpoint)


def test_every_client_has_the_bounds_and_what_the_users_own_factory_gives() -> None:
    from huggingface_hub import close_session, get_session, set_client_factory
    from huggingface_hub.utils import _http

    before = _http._GLOBAL_CLIENT_FACTORY
    try:
        for _ in range(2):  # also one that is set after ours
            set_client_factory(lambda: type(get_session_of(before))(headers={"X-Own": "1"}, timeout=7.0))
            for _ in range(2):
                hub_answers.limit_answers()
                close_session()
                session = get_session()
                assert session.headers["X-Own"] == "1"
                assert session.timeout.read == 7.0
                assert session.event_hooks["response"] == [hub_answers._limit]
                assert session.event_hooks["request"] == [hub_answers._ask_plainly]
    finally:
        set_client_factory(before)


def get_session_of(factory: Callable[[], Any]) -> Any:
    with factory() as client:
        return client


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("headers", "longest"),
    [
        ({"Retry_After": "31536000"}, 61),
        ({"Retry_After": "9" * 5000}, 61),
        ({"Retry_After": "\u00b2"}, 8),
        ({"Retry_After": "7"}, 8),
        ({"RateLimit": '"api";r=0;t=31536000', "RateLimit_Policy": '"fixed window";"api";q=500;w=31536000'}, 61),
        ({"RateLimit": '"api"; r=0; t = 31536000'}, 61),
        ({"RateLimit": '"api";r=0;t=50'}, 51),
    ],
)
def test_a_hub_cannot_put_us_to_sleep(
    status: int, headers: dict[str, str], longest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("pruner.hub_source.time.sleep", slept.append)

    def busy(handler: BaseHTTPRequestHandler) -> None:
        if "/tree/" in handler.path:
            send(handler, status, **headers)
        else:
            send(handler, 200, json.dumps(INFO).encode())

    for reader in (listed, looked_at):
        slept.clear()
        with answering(busy) as endpoint, pytest.raises(UnavailableError) as error:
            reader(endpoint)
        assert_one_line(error.value, "org/model")
        assert max(slept) == (longest if status == 429 or "Retry_After" in headers else 8)


def test_a_hub_that_takes_its_time_over_a_commit_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_answers, "LONGEST_SILENCE", 0.2)
    hub_api("http://127.0.0.1:9", None)  # installs the bounds
    commit, digests = "models/org/x/commit/main", "models/org/x/paths-info/main"
    asked = httpx_request("POST", commit), httpx_request("POST", digests), httpx_request("GET"), httpx_request("GET", read=7.0)
    assert [each["read"] for each in asked] == [hub_answers.LONGEST_WORK, 0.2, 0.2, 7.0]


def httpx_request(method: str, path: str = "x", read: float | None = None) -> dict[str, float | None]:
    """The time limits of a request to the API, as the client's hooks leave them."""
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]  # public, not in __all__

    session = get_session()
    request = session.build_request(method, f"http://127.0.0.1:9/api/{path}", timeout=read)
    for hook in session.event_hooks["request"]:
        hook(request)
    return dict(request.extensions["timeout"])
