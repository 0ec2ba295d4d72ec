"""Handlers of repos as a whole: create, delete, move, settings, what a repo is."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from release.hub.card_metadata import card_metadata
from release.hub.server.call import Call
from release.hub.server.commits import Commit
from release.hub.server.errors import HubError, bad_request
from release.hub.server.files import large_file
from release.hub.server.names import KINDS, RepoName, repo_name
from release.hub.server.store import Repository


def who_am_i(call: Call) -> Response:
    """`GET /api/whoami-v2`: the token's user, its role and organisations ("*" for all)."""
    if call.user is None:
        raise HubError(401, "Invalid username or password.")
    access = {"type": "access_token", "accessToken": {"displayName": "rehearsal", "role": call.user.role}}
    orgs = [{"type": "org", "name": name, "roleInOrg": "admin"} for name in call.user.orgs]
    return JSONResponse({"type": "user", "name": call.user.name, "fullname": call.user.name, "orgs": orgs, "auth": access})


def create(call: Call) -> Response:
    """`POST /api/repos/create`; a 409 carries the address too, for `exist_ok`."""
    user = call.writer()
    namespace = call.body.get("organization") or user.name
    name = repo_name(f"{call.text('type', 'model')}s", str(namespace), call.text("name"))
    place = {"url": call.hub.repo_url(name), "name": str(name)}
    if call.hub.store.find(name) is None:
        call.member(name.namespace)
    try:
        call.hub.store.create(name, private=_private(call), author=user.name)
    except HubError as error:
        error.extra.update(place)
        raise
    return JSONResponse(place)


def _private(call: Call) -> bool:
    visibility = call.body.get("visibility")
    if visibility is not None and visibility not in ("public", "private"):
        raise bad_request('"visibility" must be "public" or "private"')
    return visibility == "private" or call.body.get("private") is True


def _named_in_body(call: Call) -> Repository:
    user = call.writer()
    namespace = call.body.get("organization") or user.name
    name = repo_name(f"{call.text('type', 'model')}s", str(namespace), call.text("name"))
    repository = call.hub.store.find(name)
    if repository is None:
        raise HubError(404, "Repository not found", code="RepoNotFound")
    call.member(name.namespace)
    return repository


def delete(call: Call) -> Response:
    """`DELETE /api/repos/delete`."""
    call.hub.store.delete(_named_in_body(call))
    return JSONResponse({})


def move(call: Call) -> Response:
    """`POST /api/repos/move`."""
    call.writer()
    kind = f"{call.text('type', 'model')}s"
    old, new = (repo_name(kind, *_two_parts(call.text(key))) for key in ("fromRepo", "toRepo"))
    repository = call.hub.store.find(old)
    if repository is None:
        raise HubError(404, "Repository not found", code="RepoNotFound")
    for name in (old, new):
        call.member(name.namespace)
    call.hub.store.move(repository, new)
    return JSONResponse({"url": call.hub.repo_url(new)})


def _two_parts(name: str) -> tuple[str, str]:
    namespace, _, rest = name.partition("/")
    return namespace, rest


def change_settings(call: Call) -> Response:
    """`PUT …/settings`: visibility and gating."""
    repository = call.repository(member=True)
    changes: dict[str, Any] = {}
    if "visibility" in call.body or "private" in call.body:
        changes["private"] = _private(call)
    if "gated" in call.body:
        if call.body["gated"] not in (False, "auto", "manual"):
            raise bad_request('"gated" must be false, "auto" or "manual"')
        changes["gated"] = call.body["gated"]
    with call.hub.store.lock:
        repository.change_settings(changes)
    return JSONResponse(repository.settings())


def listing(call: Call) -> Response:
    """`GET /api/models`: every repo that the user may see, filtered by `author` and `search`."""
    if call.params["kind"] not in KINDS:
        raise HubError(404, "This address is not served by the rehearsal Hub")
    author, search = (call.request.query_params.get(key, "") for key in ("author", "search"))
    rows = []
    for repository in call.hub.store.repositories(call.params["kind"]):
        name = repository.name
        if author in ("", name.namespace) and search.lower() in str(name).lower() and call.may_see(repository):
            rows.append(_description(name, repository.settings(), repository.resolve("main")))
    return JSONResponse(rows)


def info(call: Call) -> Response:
    """`GET …[/revision/{revision}]`: the commit, its files and the card's metadata."""
    repository = call.repository()
    commit = repository.resolve(call.params.get("revision", "main"))
    description = _description(repository.name, repository.settings(), commit)
    blobs = call.flag("blobs")
    siblings = []
    for path, entry in sorted(commit.tree.items()):
        sibling: dict[str, Any] = {"rfilename": path}
        if blobs:
            sibling |= {"size": entry.size, "blobId": entry.oid}
            if entry.lfs:
                sibling["lfs"] = large_file(entry, "sha256")
        siblings.append(sibling)
    readme = commit.tree.get("README.md")
    if readme:
        content = call.hub.store.blobs.read(readme.sha256).decode("utf-8", "replace")
        description["cardData"] = card_metadata(content).data
    return JSONResponse({**description, "siblings": siblings})


def _description(name: RepoName, settings: dict[str, Any], commit: Commit) -> dict[str, Any]:
    common = {"id": str(name), "author": name.namespace, "sha": commit.oid, "lastModified": commit.date}
    counts = {"downloads": 0, "likes": 0, "tags": [], "disabled": False}
    return {**common, **counts, "createdAt": settings["created"], "private": settings["private"], "gated": settings["gated"]}
