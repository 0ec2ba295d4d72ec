"""Handlers of branches, tags and commits."""

from __future__ import annotations

from starlette.responses import JSONResponse, Response

from release.hub.server.call import Call
from release.hub.server.errors import HubError, revision_not_found
from release.hub.server.names import ref_name

LONGEST_HISTORY = 1000


def refs(call: Call) -> Response:
    """`GET …/refs`: branches, tags and, with `include_prs`, pull requests."""
    repository = call.repository()

    def rows(kind: str) -> list[dict[str, str]]:
        found = repository.refs(kind).items()
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid} for name, oid in found]

    answer = {"branches": rows("heads"), "converts": [], "tags": rows("tags")}
    if call.flag("include_prs"):
        answer["pullRequests"] = rows("pr")
    return JSONResponse(answer)


def commits(call: Call) -> Response:
    """`GET …/commits/{revision}`: the history, newest first."""
    repository = call.repository()
    rows = []
    for commit in repository.history(repository.resolve(call.params["revision"])):
        authors = [{"user": commit.author}]
        row = {"id": commit.oid, "title": commit.title, "message": commit.message, "date": commit.date, "authors": authors}
        rows.append(row)
        if len(rows) == LONGEST_HISTORY:
            break
    return JSONResponse(rows)


def _create(call: Call, kind: str, name: str, target: str, *, overwrite: bool = False) -> Response:
    repository = call.repository(member=True)
    ref_name(name)
    with call.hub.store.lock:
        commit = repository.resolve(target)
        if repository.read_ref(kind, name) and not overwrite:
            raise HubError(409, f"Reference refs/{kind}/{name} already exists")
        repository.set_ref(kind, name, commit.oid)
    return JSONResponse({})


def _delete(call: Call, kind: str, name: str) -> Response:
    repository = call.repository(member=True)
    ref_name(name)
    with call.hub.store.lock:
        if repository.read_ref(kind, name) is None:
            raise revision_not_found(name)
        repository.delete_ref(kind, name)
    return JSONResponse({})


def create_tag(call: Call) -> Response:
    """`POST …/tag/{revision}`; 409 when the tag exists."""
    return _create(call, "tags", call.text("tag"), call.params["revision"])


def delete_tag(call: Call) -> Response:
    """`DELETE …/tag/{tag}`."""
    return _delete(call, "tags", call.params["tag"])


def create_branch(call: Call) -> Response:
    """`POST …/branch/{branch}` from `startingPoint` or main; 409 when the branch exists."""
    overwrite = call.body.get("overwrite") is True
    return _create(call, "heads", call.params["branch"], call.text("startingPoint", "main"), overwrite=overwrite)


def delete_branch(call: Call) -> Response:
    """`DELETE …/branch/{branch}`; main stays."""
    if call.params["branch"] == "main":
        raise HubError(403, "The branch main cannot be deleted")
    return _delete(call, "heads", call.params["branch"])
