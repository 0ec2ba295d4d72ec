"""The Hub's folder: it survives restarts and kills, has one server, and only loopback reaches it."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from pruner.errors import InputError, UnavailableError
from release.commands.running import asks_hub
from release.hub.endpoint import NOT_SERVED, open_hub
from release.hub.local import LocalHub
from release.hub.server import LOCAL_TOKEN
from release.hub.server.run import HubServer
from tests.release.hub.releases import PATIENCE

REPO = "org/model"
ROOT = Path(__file__).resolve().parents[3]


DYING = """
import os, signal, sys
from pathlib import Path
from release.hub.server.run import HubServer
left = int(sys.argv[2])
def counted(call):
    def function(*words, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*words, **options)
    return function
server = HubServer(Path(sys.argv[1]))
for name in ("fsync", "replace", "rename", "mkdir"):
    setattr(os, name, counted(getattr(os, name)))
print(server.endpoint, flush=True)
server.run()
"""
"""A Hub that is killed instead of changing its disk once more than it is allowed."""


@contextmanager
def server_process(folder: Path, changes: int | None = None) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A Hub in a process of its own, which can be killed, or dies by itself after some changes of its disk."""
    how = ["-m", "release", "hub", "serve", str(folder)] if changes is None else ["-c", DYING, str(folder), str(changes)]
    words = [sys.executable, *how]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    try:
        endpoint = next(word for word in process.stdout.readline().split() if word.startswith("http://"))
        await_answer(endpoint)
        yield endpoint, process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def await_answer(endpoint: str) -> httpx.Response:
    """What a Hub that was just started answers to somebody without a token; on a busy machine that takes its time."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return httpx.get(f"{endpoint}/api/whoami-v2")
        except httpx.TransportError:
            assert time.monotonic() < deadline, "the Hub never answered"
            time.sleep(0.05)


def connect(endpoint: str) -> httpx.Client:
    return httpx.Client(base_url=endpoint, headers={"Authorization": f"Bearer {LOCAL_TOKEN}"}, timeout=PATIENCE)


def head_of(client: httpx.Client) -> str:
    return str(client.get(f"/api/models/{REPO}").json()["sha"])


def tree_of(client: httpx.Client) -> dict[str, str]:
    return {row["path"]: row["oid"] for row in client.get(f"/api/models/{REPO}/tree/main?recursive=1").json()}


def commit_body(path: str, data: bytes, parent: str) -> bytes:
    header = {"key": "header", "value": {"summary": path, "description": "", "parentCommit": parent}}
    value = {"path": path, "encoding": "base64", "content": base64.b64encode(data).decode()}
    return json.dumps(header).encode() + b"\n" + json.dumps({"key": "file", "value": value}).encode() + b"\n"


def test_a_restart_keeps_everything(tmp_path: Path) -> None:
    from huggingface_hub import HfApi

    folder = tmp_path / "hub"
    with LocalHub(folder) as hub:
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        api.create_repo(REPO, private=True)
        commit = api.upload_file(path_or_fileobj=b"\0" * 9, path_in_repo="a.gguf", repo_id=REPO)
        api.create_tag(REPO, tag="v1")
        api.upload_file(path_or_fileobj=b"1", path_in_repo="b.txt", repo_id=REPO, create_pr=True)
    with LocalHub(folder) as hub:
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        info = api.model_info(REPO)
        assert (info.sha, info.private) == (commit.oid, True)
        assert [tag.name for tag in api.list_repo_refs(REPO).tags] == ["v1"]
        assert api.file_exists(REPO, "b.txt", revision="refs/pr/1")
        assert Path(api.hf_hub_download(REPO, "a.gguf", cache_dir=tmp_path / "cache")).read_bytes() == b"\0" * 9


def test_killed_in_the_middle_of_a_commit_the_old_head_stays(tmp_path: Path) -> None:
    """The body stops half-way through a file; the server is killed; after a restart nothing of it shows."""
    folder = tmp_path / "hub"
    with server_process(folder) as (endpoint, process), connect(endpoint) as client:
        client.post("/api/repos/create", json={"name": "model", "organization": "org"})
        head = head_of(client)
        body = commit_body("a.txt", b"a", head) + commit_body("b.txt", b"b" * 10_000, head)
        with open_request(endpoint, "POST", f"/api/models/{REPO}/commit/main", body[:6000], len(body)) as connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 100 "), "the body is being read"
            process.send_signal(signal.SIGKILL)
            process.wait()
    with LocalHub(folder) as hub, connect(hub.endpoint) as client:
        assert head_of(client) == head
        assert list(tree_of(client)) == [".gitattributes"]


def test_killed_in_the_middle_of_an_upload_nothing_is_stored(tmp_path: Path) -> None:
    folder = tmp_path / "hub"
    data = random.Random(3).randbytes(400_000)
    digest = hashlib.sha256(data).hexdigest()
    batch = {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": digest, "size": len(data)}]}
    with server_process(folder) as (endpoint, process), connect(endpoint) as client:
        client.post("/api/repos/create", json={"name": "model", "organization": "org"})
        answer = client.post(f"/{REPO}.git/info/lfs/objects/batch", json=batch).json()
        origin, _, path = answer["objects"][0]["actions"]["upload"]["href"].partition("/objects/")
        with open_request(origin, "PUT", f"/objects/{path}", data[:300_000], len(data)):
            deadline = time.monotonic() + PATIENCE
            while not list((folder / "partial").iterdir()) and time.monotonic() < deadline:
                time.sleep(0.02)
            assert list((folder / "partial").iterdir())
            process.send_signal(signal.SIGKILL)
            process.wait()
    with LocalHub(folder) as hub, connect(hub.endpoint) as client:
        assert list((folder / "partial").iterdir()) == []
        assert "actions" in client.post(f"/{REPO}.git/info/lfs/objects/batch", json=batch).json()["objects"][0]


@contextmanager
def open_request(origin: str, method: str, path: str, start: bytes, length: int) -> Iterator[socket.socket]:
    """Send the beginning of a request and leave it open; the server says when it begins to read the body."""
    host, port = origin.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n"
        connection.sendall(f"{head}Authorization: Bearer {LOCAL_TOKEN}\r\n\r\n".encode() + start)
        yield connection


@pytest.mark.slow
def test_killed_at_any_moment_the_head_is_a_whole_commit(tmp_path: Path) -> None:
    """Commits one after another; SIGKILL at some change of the disk; each time the head is the last answered or its child."""
    folder = tmp_path / "hub"
    rng = random.Random(5)
    with LocalHub(folder) as hub, connect(hub.endpoint) as client:
        client.post("/api/repos/create", json={"name": "model", "organization": "org"})
        head = head_of(client)
    for round_number, changes in enumerate(rng.sample(range(40), 8)):
        with server_process(folder, changes) as (endpoint, process), connect(endpoint) as client:
            assert head_of(client) == head
            answered = head
            with suppress(httpx.TransportError):  # killed
                for number in range(changes + 1):
                    body = commit_body(f"f{round_number}-{number}.txt", rng.randbytes(2000), answered)
                    reply = client.post(f"/api/models/{REPO}/commit/main", content=body)
                    assert reply.status_code == 200
                    answered = reply.json()["commitOid"]
            assert process.wait() == -signal.SIGKILL
        with LocalHub(folder) as hub, connect(hub.endpoint) as client:
            history = [row["id"] for row in client.get(f"/api/models/{REPO}/commits/main").json()]
            assert answered in history[:2]
            head = history[0]
            for path in tree_of(client):
                assert client.get(f"/{REPO}/resolve/main/{path}").status_code == 200


def test_an_occupied_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UnavailableError, match=rf"127\.0\.0\.1:{port}: the port is in use.*--port") as caught:
            HubServer(tmp_path / "hub", port=port)
    assert "\n" not in str(caught.value)
    with LocalHub(tmp_path / "hub"):  # the folder was released
        pass


def test_a_folder_has_one_server(tmp_path: Path) -> None:
    with LocalHub(tmp_path / "hub") as hub:
        expected = f"another rehearsal Hub serves this folder at {hub.endpoint}; .*--hub {hub.endpoint}"
        with pytest.raises(UnavailableError, match=expected):
            HubServer(hub.folder)
        with connect(hub.endpoint) as client:
            assert client.get("/api/whoami-v2").status_code == 200
    assert not (tmp_path / "hub" / "server.url").exists()


def test_no_hub_is_started_for_a_run_that_asks_none(tmp_path: Path) -> None:
    assert [asks_hub(last) for last in ("prune", "eval", "card", "publish", None)] == [False, False, True, True, True]
    with open_hub("local", tmp_path / "hub", serve=False) as target:
        assert (target.endpoint, target.label) == (NOT_SERVED, "local")
    assert not (tmp_path / "hub").exists()


def test_only_loopback_and_only_its_own_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only serves loopback"):
        HubServer(tmp_path / "hub", host="0.0.0.0")  # noqa: S104
    with pytest.raises(InputError, match="a port is a number"):
        HubServer(tmp_path / "hub", port=70_000)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"png")
    with pytest.raises(InputError, match="holds other files"):
        HubServer(tmp_path / "photos")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.png"]
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "hub.json").write_text('{"schema": "moe-release/hub/v9"}')
    with pytest.raises(InputError, match="not a Hub of this version"):
        HubServer(tmp_path / "newer")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "hub.json").write_text('{"schema": "moe-release/hub/v1"}')
    (broken / "tokens.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match=r"tokens\.json"):
        HubServer(broken)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_ends_on_a_signal_and_says_where_it_is(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "hub"
    words = serve_command(folder)
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        assert f"(folder {folder}, new and empty, stop with Ctrl-C)" in said
        endpoint = said.split()[3]
        assert await_answer(endpoint).status_code == 401
        assert (folder / "server.url").read_text() == f"{endpoint}\n"
        second = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False, timeout=PATIENCE)
        assert second.returncode == 3
        assert f"another rehearsal Hub serves this folder at {endpoint}; use it with" in second.stderr
        assert second.stderr.count("\n") == 1
        process.send_signal(number)
        _, errors = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, errors) == (0, "")
    assert not (folder / "server.url").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_first_answer_ends_it_as_well(tmp_path: Path, number: signal.Signals) -> None:
    lines = [
        "import release.hub.local as local",
        f"local.serve.__kwdefaults__['announce'] = lambda line: signal.raise_signal({int(number)})",
    ]
    words = serve_command(tmp_path / "hub", *lines)
    ended = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False, timeout=PATIENCE)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "hub" / "hub.json").exists()
    assert not (tmp_path / "hub" / "server.url").exists()


def serve_command(folder: Path, *first: str) -> list[str]:
    """`moe-release hub serve` that heeds Ctrl-C, which a shell's background job and its children ignore."""
    lines = ["import signal", "signal.signal(signal.SIGINT, signal.default_int_handler)", *first]
    code = "\n".join([*lines, "from release.cli import main", "main()"])
    return [sys.executable, "-c", code, "hub", "serve", str(folder)]
