"""Requests that no honest client sends, and bodies that are not what they promise."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from release.hub.local import LocalHub
from release.hub.server.errors import HubError
from release.hub.server.names import file_path, ref_name, repo_name
from tests.release.hub.releases import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from huggingface_hub import HfApi

REPO = "org/model"


@pytest.fixture
def client(hub: LocalHub, api: HfApi) -> Iterator[httpx.Client]:
    api.create_repo(REPO)
    with httpx.Client(base_url=hub.endpoint, headers={"Authorization": f"Bearer {hub.token}"}, timeout=PATIENCE) as client:
        yield client


def commit(client: httpx.Client, *lines: dict[str, Any], header: dict[str, Any] | None = None) -> httpx.Response:
    items = [{"key": "header", "value": header or {"summary": "s", "description": ""}}, *lines]
    return client.post(f"/api/models/{REPO}/commit/main", content="\n".join(map(json.dumps, items)))


def regular(path: str, data: bytes = b"x") -> dict[str, Any]:
    return {"key": "file", "value": {"path": path, "encoding": "base64", "content": base64.b64encode(data).decode()}}


def large(path: str, data: bytes) -> dict[str, Any]:
    value = {"path": path, "algo": "sha256", "oid": hashlib.sha256(data).hexdigest(), "size": len(data)}
    return {"key": "lfsFile", "value": value}


def upload_address(client: httpx.Client, data: bytes) -> str:
    objects = [{"oid": hashlib.sha256(data).hexdigest(), "size": len(data)}]
    body = {"operation": "upload", "transfers": ["basic"], "objects": objects}
    answer = client.post(f"/{REPO}.git/info/lfs/objects/batch", json=body).json()
    return str(answer["objects"][0]["actions"]["upload"]["href"])


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "a/../../x",
        "/etc/x",
        "a//b",
        "a/./b",
        "..",
        ".",
        "",
        "a\\b",
        "a\0b",
        "a\nb",
        ".git/config",
        "a/.GIT/x",
        "n" * 300,
    ],
)
def test_a_commit_cannot_name_a_path_outside(client: httpx.Client, hub: LocalHub, path: str) -> None:
    head = client.get(f"/api/models/{REPO}").json()["sha"]
    assert commit(client, regular(path)).status_code == 400
    assert client.get(f"/api/models/{REPO}").json()["sha"] == head


@pytest.mark.parametrize("name", ["..", ".x", "a..b", "a/b", "a\\b", "x.git", "-x", "x-", "a--b", "", "a\0b", "x" * 97, "ä"])
def test_a_repo_cannot_have_a_name_that_is_a_path(client: httpx.Client, hub: LocalHub, name: str) -> None:
    before = files_below(hub.folder)
    body = {"name": name, "organization": "org", "type": "model"}
    assert client.post("/api/repos/create", json=body).status_code == 400
    assert files_below(hub.folder) == before


@pytest.mark.parametrize(
    "path",
    [
        f"/{REPO}/resolve/main/..%2F..%2Frepo.json",
        f"/{REPO}/resolve/main/%2e%2e/%2e%2e/repo.json",
        f"/{REPO}/resolve/..%2F..%2Frepo.json/x",
        f"/api/models/{REPO}/tree/main/..%2F..",
        f"/api/models/{REPO}/revision/..%2F..%2Frefs%2Fheads%2Fmain",
        f"/api/models/{REPO}/revision/refs%2Fheads%2F..%2F..%2Frepo.json",
        f"/api/models/{REPO}/revision/refs%2F..%2Frepo.json",
        "/api/models/..%2F../x",
        "/api/models/%2e%2e/%2e%2e",
        f"/{REPO}/resolve/main/%00",
        f"/{REPO}/resolve/main/%ff",
        "/objects/..%2F..%2Fhub.json",
    ],
)
def test_an_address_cannot_leave_the_repo(client: httpx.Client, hub: LocalHub, path: str) -> None:
    host, port = hub.endpoint.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:  # a client library would clean the path up
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        status = int(raw.makefile("rb").readline().split()[1])
    assert status in (400, 401, 404)


def test_other_hosts_are_refused(client: httpx.Client) -> None:
    assert client.get("/api/whoami-v2", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/api/whoami-v2").status_code == 200


def test_a_missing_content_is_refused(client: httpx.Client) -> None:
    answer = commit(client, large("a.gguf", b"never sent"))
    assert answer.status_code == 400
    assert "does not exist" in answer.json()["error"]


def test_a_wrong_digest_on_arrival_is_refused_and_leaves_nothing(client: httpx.Client, hub: LocalHub) -> None:
    address = upload_address(client, b"promised content")
    before = files_below(hub.folder)
    answer = httpx.put(address, content=b"another  content", timeout=PATIENCE)
    assert answer.status_code == 400
    assert "Digest mismatch" in answer.headers["X-Error-Message"]
    assert httpx.put(address, content=b"short", timeout=PATIENCE).status_code == 400
    assert httpx.put(address, content=b"much longer than was promised", timeout=PATIENCE).status_code == 413
    assert files_below(hub.folder) == before
    assert commit(client, large("a.gguf", b"promised content")).status_code == 400
    assert httpx.put(address, content=b"promised content", timeout=PATIENCE).status_code == 200
    assert commit(client, large("a.gguf", b"promised content")).status_code == 200


def test_storage_addresses_cannot_be_forged(client: httpx.Client) -> None:
    address = upload_address(client, b"data")
    digest = hashlib.sha256(b"data").hexdigest()
    other = hashlib.sha256(b"evil").hexdigest()
    assert httpx.put(address.replace(digest, other), content=b"evil", timeout=PATIENCE).status_code == 403
    assert httpx.put(address.replace("size=4", "size=40"), content=b"data", timeout=PATIENCE).status_code == 403
    assert httpx.put(address.split("?")[0], content=b"data", timeout=PATIENCE).status_code == 403
    assert httpx.get(address, timeout=PATIENCE).status_code == 403
    assert httpx.put(address, content=b"data", timeout=PATIENCE).status_code == 200


def test_a_commit_without_effect_keeps_the_head(client: httpx.Client) -> None:
    """The real client leaves such lines out; other clients do not."""
    first = commit(client, regular("a.txt")).json()["commitOid"]
    assert commit(client, regular("a.txt")).json()["commitOid"] == first
    assert commit(client).json()["commitOid"] == first
    assert len(client.get(f"/api/models/{REPO}/commits/main").json()) == 2


@pytest.mark.parametrize(
    "body", [b"", b"nonsense\n", b"[1]\n", b'{"key":"header"}\n', b'{"key":"odd","value":{}}\n', b"[" * 100_000, b"\xff\n"]
)
def test_a_malformed_commit_is_refused(client: httpx.Client, body: bytes) -> None:
    assert client.post(f"/api/models/{REPO}/commit/main", content=body).status_code == 400


@pytest.mark.parametrize(
    "value",
    [
        {"path": "a", "encoding": "base64", "content": "***"},
        {"path": "a", "encoding": "utf-8", "content": "x"},
        {"path": 7, "encoding": "base64"},
        {},
    ],
)
def test_a_malformed_file_line_is_refused(client: httpx.Client, value: dict[str, Any]) -> None:
    assert commit(client, {"key": "file", "value": value}).status_code == 400


def test_a_file_cannot_be_a_folder_too(client: httpx.Client) -> None:
    assert commit(client, regular("a"), regular("a/b")).status_code == 400
    assert commit(client, regular("a/b")).status_code == 200
    assert commit(client, regular("a")).status_code == 400


def test_deleting_what_is_not_there_is_refused(client: httpx.Client) -> None:
    assert commit(client, {"key": "deletedFile", "value": {"path": "none"}}).status_code == 404
    assert commit(client, {"key": "deletedFolder", "value": {"path": "none/"}}).status_code == 404


def test_bodies_have_a_limit(client: httpx.Client) -> None:
    assert client.post("/api/validate-yaml", content=b"x" * (17 << 20)).status_code == 413
    line = json.dumps(regular("a", b"x" * (15 << 20)))
    assert client.post(f"/api/models/{REPO}/commit/main", content=line).status_code == 413


def test_unknown_addresses_and_bad_fields_are_refused(client: httpx.Client) -> None:
    assert client.get("/nothing").status_code == 404
    assert client.get(f"/api/spaces/{REPO}").status_code == 404
    assert client.post("/api/repos/create", json={"name": 7}).status_code == 400
    assert client.post(f"/api/models/{REPO}/tag/main", json={"tag": "../x"}).status_code == 400
    assert client.post(f"/api/models/{REPO}/tag/main", json={"tag": "a" * 40}).status_code == 400
    assert client.get(f"/api/models/{REPO}/tree/main?cursor=-1").status_code == 400
    assert client.post(f"/api/models/{REPO}/discussions/1/merge", json={}).status_code == 404
    assert client.put(f"/api/models/{REPO}/settings", json={"gated": "perhaps"}).status_code == 400
    body = {"operation": "upload", "objects": [{"oid": "../x", "size": 1}]}
    assert client.post(f"/{REPO}.git/info/lfs/objects/batch", json=body).status_code == 400


def test_a_gated_repo_is_listed_and_not_downloaded(client: httpx.Client, hub: LocalHub) -> None:
    commit(client, regular("a.txt"))
    assert client.put(f"/api/models/{REPO}/settings", json={"gated": "auto"}).status_code == 200
    answer = httpx.get(f"{hub.endpoint}/{REPO}/resolve/main/a.txt", timeout=PATIENCE)
    assert (answer.status_code, answer.headers["X-Error-Code"]) == (401, "GatedRepo")
    assert client.get(f"/{REPO}/resolve/main/a.txt").text == "x"


@given(st.text(max_size=60))
def test_whatever_passes_as_a_path_stays_inside(text: str) -> None:
    try:
        path = file_path(text)
    except HubError:
        return
    assert not Path(path).is_absolute()
    assert Path("/root/folder", path).resolve().is_relative_to("/root/folder")
    assert ".." not in path.split("/")


@given(st.text(alphabet="ab./-_\\\0 é", max_size=12))
def test_whatever_passes_as_a_name_is_one_segment(text: str) -> None:
    for check in (lambda: repo_name("models", text, "x").namespace, lambda: ref_name(text)):
        try:
            name = check()
        except HubError:
            continue
        assert "\0" not in name
        assert "\\" not in name
        assert not {"", ".", ".."} & set(name.split("/"))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/repos/create"),
        ("POST", "/api/validate-yaml"),
        ("POST", f"/api/models/{REPO}/discussions"),
        ("POST", f"/api/models/{REPO}/preupload/main"),
        ("POST", f"/api/models/{REPO}/commit/main"),
        ("POST", f"/api/models/{REPO}/tag/main"),
        ("PUT", f"/api/models/{REPO}/settings"),
        ("POST", "/api/collections"),
        ("POST", "/api/jobs/org"),
    ],
)
def test_half_a_surrogate_pair_is_refused_everywhere(client: httpx.Client, method: str, path: str) -> None:
    half = "\\ud800"
    fields = "".join(f'"{key}": "{half}", ' for key in ("name", "title", "content", "tag", "namespace"))
    body = f'{{{fields}"key": "header", "value": {{"summary": "{half}"}}}}'.encode()
    assert client.request(method, path, content=body).status_code == 400
    whole = json.dumps({"title": "\U0001f600", "pullRequest": True}).encode()
    assert client.post(f"/api/models/{REPO}/discussions", content=whole).status_code == 200
