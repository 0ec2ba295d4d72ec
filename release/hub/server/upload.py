"""Handlers of a push: which files are large, the card's check, and the commit."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from release.hub.card_metadata import card_metadata
from release.hub.server.call import Call, json_object, limited
from release.hub.server.commits import Changes, FileEntry, lfs_entry, regular_entry
from release.hub.server.discussions import open_pull_request
from release.hub.server.errors import HubError, bad_request, revision_not_found
from release.hub.server.names import file_path, sha256_name

LARGE_ENDINGS = (".bin", ".gguf", ".parquet", ".png", ".pt", ".safetensors", ".zip")
MOST_FILES = 256
LARGEST_COMMIT = 1 << 30
LINE_OVERHEAD = 8192
SHORT_OID = re.compile(r"[0-9a-f]{7,40}$")


def validate_card(call: Call) -> Response:
    """`POST /api/validate-yaml`: errors (400) and warnings of a card's metadata."""
    metadata = card_metadata(call.text("content"))
    answer = {key: [{"message": text} for text in getattr(metadata, key)] for key in ("errors", "warnings")}
    if metadata.errors:
        raise HubError(400, "Invalid metadata in README.md", extra=dict(answer))
    return JSONResponse(answer)


def preupload(call: Call) -> Response:
    """`POST …/preupload/{revision}`: how each file is to be uploaded, and the oid of what is there now."""
    repository = call.repository(write=True)
    commit = repository.resolve(call.params["revision"])
    items = call.body.get("files")
    if not isinstance(items, list) or len(items) > MOST_FILES or not all(isinstance(item, dict) for item in items):
        raise bad_request(f'"files" must be a list of at most {MOST_FILES} objects')
    rows = []
    for item in items:
        path = _path_of(item)
        mode = "lfs" if _is_large(path, item, call.hub.settings.largest_regular) else "regular"
        row: dict[str, Any] = {"path": path, "uploadMode": mode, "shouldIgnore": False}
        known = commit.tree.get(path)
        if known:
            row["oid"] = known.sha256 if known.lfs else known.oid
        rows.append(row)
    return JSONResponse({"files": rows, "commitOid": commit.oid})


def _is_large(path: str, item: dict[str, Any], largest_regular: int) -> bool:
    size = item.get("size", 0)
    if not isinstance(size, int):
        raise bad_request('"size" must be a number of bytes')
    if path.lower().endswith(LARGE_ENDINGS) or size > largest_regular:
        return True
    try:
        sample = base64.b64decode(_text(item, "sample"), validate=True)
    except binascii.Error:
        raise bad_request('"sample" must be base64') from None
    return b"\0" in sample


async def commit(call: Call) -> Response:
    """`POST …/commit/{revision}[?create_pr=1]`: all changes or none, one new commit.

    The body is read line by line; a small file's content is stored as it passes, and stays unused if the commit is refused.
    """
    repository = await run_in_threadpool(call.repository, write=True)
    user, revision = call.writer(), call.params["revision"]
    changes = await _read_changes(call)
    if call.flag("create_pr"):
        created = await run_in_threadpool(open_pull_request, call, repository, revision, changes)
        return JSONResponse(created)
    ref = repository.find_ref(revision)
    if ref is None or ref[0] == "tags":
        raise revision_not_found(revision)
    if ref[0] == "heads":
        call.member(repository.name.namespace)
    done = await run_in_threadpool(call.hub.store.commit, repository, *ref, changes, user.name)
    url = f"{call.hub.repo_url(repository.name)}/commit/{done.oid}"
    return JSONResponse({"success": True, "commitUrl": url, "commitOid": done.oid})


class _Reader:
    """Gathers the changes from the lines of a commit."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.header: dict[str, Any] | None = None
        self.files: dict[str, FileEntry] = {}
        self.deleted_files: list[str] = []
        self.deleted_folders: list[str] = []

    def add(self, line: bytes) -> None:
        """Take one line."""
        item = json_object(line)
        key, value = item.get("key"), item.get("value")
        if not isinstance(value, dict):
            raise bad_request('Every line needs a "key" and a "value"')
        if key == "header":
            self.header = value
        elif key == "file":
            self.files[_path_of(value)] = self._regular(value)
        elif key == "lfsFile":
            self.files[_path_of(value)] = self._large(value)
        elif key == "deletedFile":
            self.deleted_files.append(_path_of(value))
        elif key == "deletedFolder":
            self.deleted_folders.append(file_path(_text(value, "path").rstrip("/")))
        else:
            raise bad_request(f"Unknown line {str(key)[:40]!r}")

    def _regular(self, value: dict[str, Any]) -> FileEntry:
        if value.get("encoding") != "base64":
            raise bad_request("A file's content must be base64")
        try:
            data = base64.b64decode(_text(value, "content"), validate=True)
        except (binascii.Error, ValueError):
            raise bad_request("A file's content is not base64") from None
        largest = self._call.hub.settings.largest_regular
        if len(data) > largest:
            raise bad_request(f"A file of more than {largest:,} bytes must be uploaded as a large file")
        return regular_entry(data, self._call.hub.store.blobs.add(data))

    def _large(self, value: dict[str, Any]) -> FileEntry:
        oid = sha256_name(value.get("oid"))
        hub = self._call.hub
        size = value.get("size", hub.store.blobs.size(oid))
        if hub.store.blobs.size(oid) is None and isinstance(size, int):
            hub.xet.bring_in(oid, size, hub.store.blobs)
        known = hub.store.blobs.size(oid)
        if known is None or known != size:
            raise HubError(400, f"LFS pointer pointed to a file that does not exist: {_path_of(value)} (oid {oid})")
        return lfs_entry(oid, known)

    def changes(self) -> Changes:
        """The whole commit."""
        header = self.header or {}
        title = header.get("summary")
        if not isinstance(title, str) or not title:
            raise bad_request("A commit needs a summary")
        parent = header.get("parentCommit")
        if parent is not None and not (isinstance(parent, str) and SHORT_OID.match(parent)):
            raise bad_request('"parentCommit" must have at least 7 hexadecimal digits')
        message = str(header.get("description") or "")
        return Changes(title, message, parent, self.files, self.deleted_files, self.deleted_folders)


def _path_of(value: dict[str, Any]) -> str:
    return file_path(_text(value, "path"))


def _text(value: dict[str, Any], key: str) -> str:
    text = value.get(key)
    if not isinstance(text, str):
        raise bad_request(f'"{key}" must be a text')
    return text


async def _read_changes(call: Call) -> Changes:
    reader = _Reader(call)
    longest = call.hub.settings.largest_regular * 4 // 3 + LINE_OVERHEAD
    async for line in _lines(call.request, longest):
        await run_in_threadpool(reader.add, line)
    return reader.changes()


async def _lines(request: Request, longest: int) -> AsyncIterator[bytes]:
    """The lines of a body that are not empty; no more than one line is held.

    Raises:
        HubError: 413 for a line or a body that is too long.
    """
    pending = bytearray()
    async for block in limited(request, LARGEST_COMMIT):
        pending += block
        while (end := pending.find(b"\n")) >= 0:
            line = bytes(pending[:end])
            del pending[: end + 1]
            if line.strip():
                yield line
        if len(pending) > longest:
            raise HubError(413, f"A line of the commit is longer than {longest:,} bytes")
    if pending.strip():
        yield bytes(pending)
