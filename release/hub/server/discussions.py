"""Handlers of pull requests: a ref `refs/pr/N` with a page of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse, Response

from pruner.files import canonical_json, write_atomic
from release.hub.server.call import Call
from release.hub.server.commits import Changes, Commit, FileEntry, Tree, apply_changes
from release.hub.server.errors import HubError, bad_request, revision_not_found
from release.hub.server.names import whole_number
from release.hub.server.store import Repository, now

STATUSES = ("open", "closed")
LONGEST_TITLE = 200


def _folder(repository: Repository) -> Path:
    return repository.folder / "discussions"


def _all(repository: Repository) -> list[dict[str, Any]]:
    return [json.loads(file.read_bytes()) for file in sorted(_folder(repository).glob("[0-9]*.json"))]


def _read(call: Call, repository: Repository) -> dict[str, Any]:
    number = whole_number(call.params["number"], "A discussion")
    path = _folder(repository) / f"{number:09d}.json"
    if not path.exists():
        raise HubError(404, f"There is no discussion {number}")
    value: dict[str, Any] = json.loads(path.read_bytes())
    return value


def _write(repository: Repository, value: Mapping[str, Any]) -> None:
    write_atomic(_folder(repository) / f"{value['num']:09d}.json", canonical_json(dict(value)))


def _new(call: Call, repository: Repository, title: str, description: str, base: Commit | None) -> dict[str, Any]:
    """Write a new discussion; with a `base` it is a pull request whose ref starts there.  Hold the store's lock."""
    user = call.writer()
    if not 0 < len(title) <= LONGEST_TITLE:
        raise bad_request(f"A title has 1 to {LONGEST_TITLE} characters")
    number = max((value["num"] for value in _all(repository)), default=0) + 1
    value: dict[str, Any] = {
        "num": number,
        "title": title,
        "author": {"name": user.name},
        "createdAt": now(),
        "status": "open" if base is None else "draft",
        "repo": {"name": str(repository.name), "type": repository.name.kind[:-1]},
        "isPullRequest": base is not None,
        "events": [_comment_event(1, user.name, description)],
    }
    if base is not None:
        value["changes"] = {"base": "refs/heads/main", "baseCommit": base.oid}
        repository.set_ref("pr", str(number), base.oid)
    _write(repository, value)
    return value


def _event(number: int, user: str, kind: str, data: dict[str, Any]) -> dict[str, Any]:
    return {"id": f"{number:024d}", "type": kind, "createdAt": now(), "author": {"name": user}, "data": data}


def _comment_event(number: int, user: str, text: str) -> dict[str, Any]:
    latest = {"raw": text, "html": "", "updatedAt": now(), "author": {"name": user}}
    return _event(number, user, "comment", {"edited": False, "hidden": False, "latest": latest, "history": []})


def _append(repository: Repository, value: dict[str, Any], event: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Add an event and change fields of a discussion; returns the event."""
    _write(repository, {**value, **changes, "events": [*value["events"], event]})
    return event


def open_pull_request(call: Call, repository: Repository, revision: str, changes: Changes) -> dict[str, str]:
    """Create a pull request that holds `changes` on top of their parent, or of `revision`.

    Raises:
        HubError: 404 when `revision` is no branch, 400 when a large file's content has not been uploaded.
    """
    store = call.hub.store
    with store.lock:
        ref = repository.find_ref(revision)
        if ref is None or ref[0] != "heads":
            raise revision_not_found(revision)
        base = repository.resolve(changes.parent or revision)
        store.require_blobs(changes)
        apply_changes(base.tree, changes, base.oid)
        value = _new(call, repository, changes.title[:LONGEST_TITLE], changes.message, base)
        number = str(value["num"])
        commit = store.commit(repository, "pr", number, replace(changes, parent=None), call.writer().name)
        _write(repository, {**value, "status": "open"})
    home = call.hub.repo_url(repository.name)
    answer = {"commitUrl": f"{home}/commit/{commit.oid}", "commitOid": commit.oid}
    return {**answer, "pullRequestUrl": f"{home}/discussions/{number}"}


def listing(call: Call) -> Response:
    """`GET …/discussions`: all of them on one page, filtered by `type` and `status`."""
    repository = call.repository()
    query = call.request.query_params
    rows = [value for value in _all(repository) if query.get("type", "all") in ("all", _kind(value))]
    status = query.get("status", "all")
    shown = [value for value in rows if status == "all" or (value["status"] in ("open", "draft")) == (status == "open")]
    return JSONResponse({"discussions": shown[::-1], "count": len(shown), "start": 0})


def _kind(value: Mapping[str, Any]) -> str:
    return "pull_request" if value["isPullRequest"] else "discussion"


def create(call: Call) -> Response:
    """`POST …/discussions`: a discussion, or an empty pull request in draft."""
    repository = call.repository(write=True)
    with call.hub.store.lock:
        base = repository.resolve("main") if call.body.get("pullRequest") is True else None
        value = _new(call, repository, call.text("title"), call.text("description", ""), base)
    return JSONResponse({"num": value["num"], "pullRequest": base is not None})


def details(call: Call) -> Response:
    """`GET …/discussions/{number}`: everything, with the paths that cannot be merged."""
    repository = call.repository()
    value = _read(call, repository)
    if value["isPullRequest"]:
        base, theirs = _pull_request_trees(repository, value)
        ours = repository.resolve("main").tree
        value["filesWithConflicts"] = conflicts(base, ours, theirs) if value["status"] != "merged" else []
        value["diff"] = "".join(f"{path}\n" for path in changed_paths(base, theirs))
    return JSONResponse(value)


def _pull_request_trees(repository: Repository, value: Mapping[str, Any]) -> tuple[Tree, Tree]:
    return repository.commit(value["changes"]["baseCommit"]).tree, repository.resolve(f"refs/pr/{value['num']}").tree


def changed_paths(old: Tree, new: Tree) -> list[str]:
    """The paths that were added, removed or changed."""
    return sorted(path for path in old.keys() | new.keys() if old.get(path) != new.get(path))


def conflicts(base: Tree, ours: Tree, theirs: Tree) -> list[str]:
    """The paths that both sides changed, in different ways."""
    both = set(changed_paths(base, ours)) & set(changed_paths(base, theirs))
    return sorted(path for path in both if ours.get(path) != theirs.get(path))


def merged_tree(base: Tree, ours: Tree, theirs: Tree) -> dict[str, FileEntry]:
    """Our tree with their changes."""
    result = dict(ours)
    for path in changed_paths(base, theirs):
        if path in theirs:
            result[path] = theirs[path]
        else:
            result.pop(path, None)
    return result


def comment(call: Call) -> Response:
    """`POST …/discussions/{number}/comment`."""
    repository = call.repository(write=True)
    with call.hub.store.lock:
        value = _read(call, repository)
        event = _comment_event(len(value["events"]) + 1, call.writer().name, call.text("comment"))
        _append(repository, value, event)
    return JSONResponse({"newMessage": event})


def change_status(call: Call) -> Response:
    """`POST …/discussions/{number}/status`: open or close."""
    repository = call.repository(write=True)
    status = call.text("status")
    if status not in STATUSES:
        raise bad_request('"status" must be "open" or "closed"')
    with call.hub.store.lock:
        value = _read(call, repository)
        if value["status"] == "merged":
            raise HubError(409, "The pull request has been merged")
        event = _event(len(value["events"]) + 1, call.writer().name, "status-change", {"status": status})
        _append(repository, value, event, status=status)
    return JSONResponse({"newStatus": event})


def merge(call: Call) -> Response:
    """`POST …/discussions/{number}/merge`: one commit on main with the pull request's changes.

    Raises:
        HubError: 409 when it is not open or both sides changed a file.
    """
    repository = call.repository(member=True)
    user = call.writer().name
    with call.hub.store.lock:
        value = _read(call, repository)
        if not value["isPullRequest"] or value["status"] != "open":
            raise HubError(409, f"Discussion {value['num']} is no open pull request")
        base, theirs = _pull_request_trees(repository, value)
        head = repository.resolve("main")
        clash = conflicts(base, head.tree, theirs)
        if clash:
            raise HubError(409, f"The pull request conflicts with main in {', '.join(clash[:5])}")
        tree = merged_tree(base, head.tree, theirs)
        title = f"{value['title']} (#{value['num']})"
        commit = repository.add_commit(head, tree, title=title, message="", author=user)
        repository.set_ref("heads", "main", commit.oid)
        event = _event(len(value["events"]) + 1, user, "status-change", {"status": "merged"})
        _append(repository, value, event, status="merged", changes={**value["changes"], "mergeCommitId": commit.oid})
    return JSONResponse({})
