"""Small files and listings of a Hub that lies: what is read ends, is what was listed, and no message shows a password."""

from __future__ import annotations

import json
import logging
import tracemalloc
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from threading import Event
from typing import Any

import pytest

from pruner.errors import CheckFailedError, MoeReleaseError, UnavailableError
from pruner.files import git_blob_id, sha256_bytes
from release.hub.announce import require_repo
from release.hub.read_back import read_back
from release.hub.remote import RemoteFile, RemoteTree, files_at, hub_api, remote_tree
from release.hub.rights import require_rights
from release.hub.small_files import remote_bytes, remote_text
from tests.hostile import assert_one_line
from tests.release.hub.test_hub_answers import COMMIT, DIGEST, INFO, answering, send

CONTENT = b"---\r\nlicense: mit\r\n---\r\n# \xc3\xa9\r"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What may pass is tried again without a pause."""
    monkeypatch.setattr("pruner.hub_failures.BACK_OFF", (0.0, 0.0))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _seconds: None)


def tree(content: bytes, size: int | None = None) -> RemoteTree:
    size = len(content) if size is None else size
    return RemoteTree(COMMIT, False, {"docs/README.md": RemoteFile("docs/README.md", size, git_blob_id(content), None)})


def text_of(endpoint: str, listed: RemoteTree) -> str | None:
    return remote_text(hub_api(endpoint, None), "org/model", listed, "docs/README.md", 1 << 20)


def test_a_text_is_what_stands_there_byte_for_byte() -> None:
    with answering(lambda handler: send(handler, 200, CONTENT)) as endpoint:
        text = text_of(endpoint, tree(CONTENT))
        assert text is not None
        assert text.encode() == CONTENT
        api = hub_api(endpoint, None)
        assert remote_bytes(api, "org/model", tree(CONTENT), "docs/README.md", len(CONTENT)) == CONTENT
        assert remote_bytes(api, "org/model", tree(CONTENT), "README.md", 1) is None
        assert remote_bytes(api, "org/model", None, "README.md", 1) is None
        with pytest.raises(CheckFailedError, match=f"has {len(CONTENT)} bytes; at most 3 are read"):
            remote_bytes(api, "org/model", tree(CONTENT), "docs/README.md", 3)


def test_what_is_no_utf_8_is_not_guessed_at() -> None:
    with (
        answering(lambda handler: send(handler, 200, b"caf\xe9")) as endpoint,
        pytest.raises(CheckFailedError, match=r"org/model: docs/README\.md is no UTF-8 text"),
    ):
        text_of(endpoint, tree(b"caf\xe9"))


@pytest.mark.parametrize("changed", [b"0123456780", b"012345678", b"0123456789a"])
def test_what_is_not_as_listed_is_refused(changed: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("release.hub.small_files.HubSource.pauses", ())
    with answering(lambda handler: send(handler, 200, changed)) as endpoint, pytest.raises(UnavailableError) as error:
        text_of(endpoint, tree(b"0123456789"))
    assert_one_line(error.value, "org/model")


@pytest.mark.parametrize("headers", [{"Content_Length": str(60 << 20)}, {"Transfer_Encoding": "chunked"}])
def test_a_body_beyond_the_listed_size_is_not_read(headers: dict[str, str]) -> None:
    sent = 0

    def endless(handler: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        block = b"x" * (1 << 16)
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        while True:
            handler.wfile.write(block if "Content_Length" in headers else b"10000\r\n" + block + b"\r\n")
            sent += len(block)

    tracemalloc.start()
    with answering(endless) as endpoint:
        with pytest.raises(UnavailableError) as error:
            text_of(endpoint, tree(b"0123456789"))
        peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert_one_line(error.value, "org/model")
    assert sent < 32 << 20, "no more than the system holds for a connection"
    assert peak < 8 << 20


def test_a_body_that_drips_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pruner.hub_source.LONGEST_ANSWER", 0.2)
    monkeypatch.setattr("pruner.hub_source.SLOWEST", 1 << 40)

    def drip(handler: BaseHTTPRequestHandler) -> None:
        send(handler, 200, Content_Length=str(1 << 20))
        while True:
            handler.wfile.write(b"x")
            Event().wait(0.02)

    with answering(drip) as endpoint, pytest.raises(UnavailableError, match="the server is too slow") as error:
        text_of(endpoint, tree(b"x", size=1 << 20))
    assert_one_line(error.value, "org/model")


def rows(**changes: Any) -> list[dict[str, Any]]:
    lfs = {"oid": DIGEST, "size": 9, "pointerSize": 99}
    row = {"type": "file", "path": "model.gguf", "size": 9, "oid": "b" * 40, "lfs": lfs}
    return [{**row, **changes, "lfs": changes.get("lfs", lfs)}]


def listing(handler: BaseHTTPRequestHandler, found: list[dict[str, Any]]) -> None:
    send(handler, 200, json.dumps(INFO if "/revision/" in handler.path else found).encode())


def lfs(oid: object) -> dict[str, object]:
    return {"lfs": {"oid": oid, "size": 9, "pointerSize": 99}}


@pytest.mark.parametrize(
    "changes",
    [
        *map(lfs, [5, None, [DIGEST], "", "d" * 63, "d" * 65, "D" * 64, "g" * 64, DIGEST + "\n", "b" * 40]),
        *({"size": size} for size in (-1, 1.5, "9", True, None, [9])),
        *({"lfs": None, "oid": oid} for oid in (5, None, "b" * 39, DIGEST, "B" * 40)),
        {"path": 5},
    ],
)
def test_a_listing_with_no_size_or_digest_cannot_be_understood(changes: dict[str, Any]) -> None:
    with answering(lambda handler: listing(handler, rows(**changes))) as endpoint:
        api = hub_api(endpoint, None)
        for read in (lambda: files_at(api, "org/model", COMMIT, ["model.gguf"]), lambda: remote_tree(api, "org/model")):
            with pytest.raises(UnavailableError, match="cannot be understood") as error:
                read()
            assert_one_line(error.value, "org/model")


def test_a_sound_listing_is_read() -> None:
    with answering(lambda handler: listing(handler, rows(size=0))) as endpoint:
        expected = {"model.gguf": RemoteFile("model.gguf", 0, "b" * 40, DIGEST)}
        assert files_at(hub_api(endpoint, None), "org/model", COMMIT, ["model.gguf"]) == expected
        found = remote_tree(hub_api(endpoint, None), "org/model")
    assert found == RemoteTree(COMMIT, False, expected)


def test_reading_back_hashes_what_git_holds_and_parses_the_card() -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        if "/resolve/" in handler.path:
            send(handler, 200, content)
        else:
            listing(handler, rows(path="README.md", size=len(content), oid=git_blob_id(content), lfs=None))

    with answering(answer) as endpoint:
        for content, problem in ((CONTENT, None), (b"---\n[\n---\n", r"README\.md \("), (b"\xff", "no UTF-8 text")):
            digests = {"README.md": sha256_bytes(content)}
            if problem is None:
                read_back("org/model", "main", digests, endpoint=endpoint, token=None)
                continue
            with pytest.raises(CheckFailedError, match=problem):
                read_back("org/model", "main", digests, endpoint=endpoint, token=None)


def refusing(status: int, body: object = None) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: send(handler, status, json.dumps(body).encode(), X_Error_Code="RepoNotFound")


def listing_busy(handler: BaseHTTPRequestHandler) -> None:
    """huggingface_hub itself asks again for a page of a listing, and says so with the address."""
    send(handler, *((503,) if "/tree/" in handler.path else (200, json.dumps(INFO).encode())))


@pytest.mark.parametrize(
    ("answer", "call"),
    [
        (refusing(404), lambda at: read_back("org/model", "main", {}, endpoint=at, token=None)),
        (refusing(200, INFO), lambda at: read_back("org/model", "b" * 40, {}, endpoint=at, token=None)),
        (refusing(503), lambda at: remote_tree(hub_api(at, None), "org/model")),
        (refusing(404), lambda at: require_repo(hub_api(at, None), "org/model")),
        (
            refusing(200, {"name": "me", "auth": {"accessToken": {"role": "read"}}}),
            lambda at: require_rights(hub_api(at, "hf_x"), ["org/model"]),
        ),
        (refusing(200, {"name": "me", "orgs": []}), lambda at: require_rights(hub_api(at, "hf_x"), ["org/model"])),
        (listing_busy, lambda at: remote_tree(hub_api(at, None), "org/model")),
    ],
)
def test_no_message_shows_the_password_of_an_endpoint(
    answer: Callable[[BaseHTTPRequestHandler], None], call: Callable[[str], object], caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("huggingface_hub").addHandler(caplog.handler)
    try:
        with answering(answer) as endpoint, pytest.raises(MoeReleaseError) as error:
            call(endpoint.replace("://", "://user:SECRET@"))
    finally:
        logging.getLogger("huggingface_hub").removeHandler(caplog.handler)
    assert endpoint.partition("://")[2] in str(error.value)
    assert "SECRET" not in str(error.value)
    assert "SECRET" not in caplog.text
