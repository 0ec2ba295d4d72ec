"""Handlers of the files of a commit: listings, and the addresses that downloads start from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlencode

from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.responses import JSONResponse as Json

from release.hub.server.call import Call, web_path
from release.hub.server.commits import Commit, FileEntry, Tree, lfs_pointer, parents_of
from release.hub.server.errors import HubError, bad_request, entry_not_found
from release.hub.server.names import file_path, whole_number
from release.hub.server.store import Repository

MOST_PATHS = 1000


def large_file(entry: FileEntry, digest_key: str) -> dict[str, Any]:
    """The `lfs` object of an entry; its digest is called "oid" in trees and "sha256" in `siblings`."""
    return {digest_key: entry.sha256, "size": entry.size, "pointerSize": len(lfs_pointer(entry.sha256, entry.size))}


def file_row(path: str, entry: FileEntry) -> dict[str, Any]:
    """A file of a tree as the client reads it."""
    row: dict[str, Any] = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
    if entry.lfs:
        row["lfs"] = large_file(entry, "oid")
    return row


def folder_row(path: str, tree: Tree) -> dict[str, Any]:
    """A folder of a tree; its oid changes when anything inside does."""
    inside = sorted((name, entry.oid) for name, entry in tree.items() if name.startswith(f"{path}/"))
    oid = hashlib.sha1(repr(inside).encode(), usedforsecurity=False).hexdigest()
    return {"type": "directory", "oid": oid, "size": 0, "path": path}


def rows_below(tree: Tree, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    """The files and folders below `folder` ("" is the root), sorted by path."""
    prefix = f"{folder}/" if folder else ""
    depth = prefix.count("/")
    below = {path: entry for path, entry in tree.items() if path.startswith(prefix)}
    folders = {parent for path in below for parent in parents_of(path) if parent.count("/") >= depth}
    rows = [file_row(path, entry) for path, entry in below.items()] + [folder_row(path, tree) for path in folders]
    shown = rows if recursive else [row for row in rows if row["path"].count("/") == depth]
    return sorted(shown, key=lambda row: row["path"])


def tree(call: Call) -> Response:
    """`GET …/tree/{revision}[/{path}]`, in pages that a `Link` header connects."""
    repository = call.repository()
    commit = repository.resolve(call.params["revision"])
    folder = call.params.get("path", "")
    rows = rows_below(commit.tree, file_path(folder) if folder else "", recursive=call.flag("recursive"))
    if not rows and folder:
        raise entry_not_found(folder, commit.oid)
    start = whole_number(call.request.query_params.get("cursor", "0"), "The cursor")
    stop = start + call.hub.settings.page_size
    page = rows[start:stop]
    if call.flag("expand"):
        _add_last_commits(repository, commit, page)
    headers = {"X-Repo-Commit": commit.oid}
    if stop < len(rows):
        query = urlencode({**call.request.query_params, "cursor": stop})
        headers["Link"] = f'<{call.hub.endpoint}{call.request.scope["raw_path"].decode("ascii")}?{query}>; rel="next"'
    return Json(page, headers=headers)


def paths_info(call: Call) -> Response:
    """`POST …/paths-info/{revision}`: the rows of some paths; those that do not exist are left out."""
    repository = call.repository()
    commit = repository.resolve(call.params["revision"])
    paths = call.body.get("paths", [])
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise bad_request('"paths" must be a list of texts')
    if len(paths) > MOST_PATHS:
        raise HubError(413, "too many parameters")
    rows = list(_rows_of(commit.tree, (path.strip("/") for path in paths)))
    if call.body.get("expand") in (["true"], ["True"], True):
        _add_last_commits(repository, commit, rows)
    return Json(rows)


def _rows_of(tree: Tree, paths: Iterable[str]) -> Iterator[dict[str, Any]]:
    for path in paths:
        if path in tree:
            yield file_row(path, tree[path])
        elif any(name.startswith(f"{path}/") for name in tree):
            yield folder_row(path, tree)


def _add_last_commits(repository: Repository, commit: Commit, rows: list[dict[str, Any]]) -> None:
    open_rows = {row["path"]: row for row in rows if row["type"] == "file"}
    newer = commit
    for older in [*list(repository.history(commit))[1:], None]:
        for path in list(open_rows):
            if older is None or older.tree.get(path) != newer.tree[path]:
                open_rows.pop(path)["lastCommit"] = {"id": newer.oid, "title": newer.title, "date": newer.date}
        if older is not None:
            newer = older


def resolve(call: Call) -> Response:
    """`GET|HEAD /…/resolve/{revision}/{path}`: a small file itself, a large one's address on the storage port."""
    repository = call.repository()
    call.require_accepted(repository)
    commit = repository.resolve(call.params["revision"])
    path = file_path(call.params["path"])
    entry = commit.tree.get(path)
    if entry is None:
        raise entry_not_found(path, commit.oid)
    headers = {"X-Repo-Commit": commit.oid, "X-Content-Type-Options": "nosniff"}
    name = web_path(path.rsplit("/", 1)[-1])
    if entry.lfs:
        headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size), "Accept-Ranges": "bytes"}
        xet_hash = call.hub.xet.find(entry.sha256)
        if xet_hash:
            route = f"{call.hub.endpoint}/api/{repository.name.kind}/{repository.name}/xet-read-token/{commit.oid}"
            headers |= {"X-Xet-Hash": xet_hash, "X-Xet-Refresh-Route": route}
        return RedirectResponse(call.hub.object_url("get", entry.sha256, filename=name), status_code=302, headers=headers)
    headers |= {"ETag": f'"{entry.oid}"', "Content-Disposition": f"inline; filename*=UTF-8''{name}"}
    return FileResponse(call.hub.store.blobs.path(entry.sha256), headers=headers, media_type="text/plain; charset=utf-8")
