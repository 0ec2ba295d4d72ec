"""Handlers of large files: the LFS batch, and contents that arrive and leave on the storage port."""

from __future__ import annotations

from math import ceil
from typing import Any

from starlette.responses import FileResponse, JSONResponse, Response

from release.hub.server.call import Call, Hub, limited
from release.hub.server.errors import HubError, bad_request, repository_not_found
from release.hub.server.names import RepoName, repo_name, sha256_name
from release.hub.server.store import Repository

LARGEST_FILE = 1 << 42
MOST_OBJECTS = 1000
LFS_JSON = "application/vnd.git-lfs+json"


def _git_repository(call: Call) -> Repository:
    """The repo of a git address, whose name ends in `.git`."""
    if not call.params["name"].endswith(".git"):
        raise HubError(404, "A git address ends in .git")
    repository = call.hub.store.find(_git_name(call))
    call.writer()
    if repository is None or not call.may_see(repository):
        raise repository_not_found(anonymous=False)
    return repository


def _git_name(call: Call) -> RepoName:
    name = call.params["name"].removesuffix(".git")
    return repo_name(call.params.get("kind", "models"), call.params["namespace"], name)


def batch(call: Call) -> Response:
    """`POST /….git/info/lfs/objects/batch`: where each content is to go; nothing for one that is here."""
    repository = _git_repository(call)
    if call.body.get("operation") != "upload":
        raise bad_request("Only uploads are served; download from /resolve/")
    objects = call.body.get("objects")
    if not isinstance(objects, list) or len(objects) > MOST_OBJECTS or not all(isinstance(item, dict) for item in objects):
        raise bad_request(f'"objects" must be a list of at most {MOST_OBJECTS} objects')
    multipart = "multipart" in (call.body.get("transfers") or [])
    verify = f"{call.hub.repo_url(repository.name)}.git/info/lfs/verify"
    rows = [_upload_row(call.hub, item, verify, multipart=multipart) for item in objects]
    used_parts = any("header" in row.get("actions", {}).get("upload", {}) for row in rows)
    answer = {"transfer": "multipart" if used_parts else "basic", "objects": rows}
    return JSONResponse(answer, media_type=LFS_JSON)


def _upload_row(hub: Hub, item: dict[str, Any], verify: str, *, multipart: bool) -> dict[str, Any]:
    oid, size = sha256_name(item.get("oid")), item.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= LARGEST_FILE:
        raise bad_request('"size" must be a number of bytes')
    row: dict[str, Any] = {"oid": oid, "size": size}
    if hub.store.blobs.size(oid) == size:
        return row
    upload: dict[str, Any] = {"href": hub.object_url("put", oid, size=size)}
    if multipart and size >= hub.settings.multipart_from:
        upload["header"] = _part_addresses(hub, oid, size)
    return {**row, "actions": {"upload": upload, "verify": {"href": verify}}}


def _part_addresses(hub: Hub, oid: str, size: int) -> dict[str, str]:
    count = ceil(size / hub.settings.part_size)
    addresses = {f"{part:05d}": hub.object_url("put", oid, part=part, size=size) for part in range(1, count + 1)}
    return {"chunk_size": str(hub.settings.part_size), **addresses}


def verify(call: Call) -> Response:
    """`POST /….git/info/lfs/verify`: whether a content arrived."""
    _git_repository(call)
    if call.hub.store.blobs.size(sha256_name(call.body.get("oid"))) != call.body.get("size"):
        raise HubError(404, "The object has not been uploaded")
    return JSONResponse({})


async def put_object(call: Call) -> Response:
    """`PUT /objects/{digest}`: a content, or one part of it, hashed as it arrives."""
    digest = sha256_name(call.params["digest"])
    query = call.request.query_params
    call.hub.signer.check("put", digest, query)
    part, size = query.get("part"), int(query["size"])
    blobs = call.hub.store.blobs
    with blobs.incoming() as incoming:
        async for block in limited(call.request, call.hub.settings.part_size if part else size):
            incoming.write(block)
        found = blobs.keep_part(incoming, digest, int(part)) if part else blobs.keep(incoming, digest=digest, size=size)
    return Response(headers={"ETag": f'"{found}"'})


def complete_object(call: Call) -> Response:
    """`POST /objects/{digest}`: all parts are here; the whole must have the digest."""
    digest = sha256_name(call.params["digest"])
    call.hub.signer.check("put", digest, call.request.query_params)
    size = int(call.request.query_params["size"])
    call.hub.store.blobs.join_parts(digest, ceil(size / call.hub.settings.part_size))
    return JSONResponse({"success": True}, media_type=LFS_JSON)


def get_object(call: Call) -> Response:
    """`GET|HEAD /objects/{digest}`: a content or a range of it."""
    digest = sha256_name(call.params["digest"])
    call.hub.signer.check("get", digest, call.request.query_params)
    if call.hub.store.blobs.size(digest) is None:
        raise HubError(404, "There is no such object")
    headers = {"ETag": f'"{digest}"', "X-Content-Type-Options": "nosniff"}
    return FileResponse(call.hub.store.blobs.path(digest), headers=headers, media_type="application/octet-stream")
