"""Handlers of collections: named lists of repos.

collections/<24 hexadecimal digits>.json   title, owner, items; the slug's last part is the file's name
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse, Response

from pruner.files import canonical_json, write_atomic
from release.hub.server.call import Call
from release.hub.server.errors import HubError, bad_request
from release.hub.server.names import repo_name
from release.hub.server.store import now

LONGEST_TITLE = 60
LONGEST_TEXT = 500
IDENTITY = re.compile(r".*-([0-9a-f]{24})")
KINDS = ("model", "dataset")


def _folder(call: Call) -> Path:
    return call.hub.store.folder / "collections"


def _all(call: Call) -> Iterator[dict[str, Any]]:
    for file in sorted(_folder(call).glob("[0-9a-f]*.json")):
        value: dict[str, Any] = json.loads(file.read_bytes())
        if not value["private"] or call.belongs_to(value["owner"]["name"]):
            yield value


def _read(call: Call, *, write: bool = False) -> dict[str, Any]:
    match = IDENTITY.fullmatch(call.params["slug"])
    path = _folder(call) / f"{match[1]}.json" if match else None
    if path is None or not path.exists():
        raise HubError(404, "Collection not found")
    value: dict[str, Any] = json.loads(path.read_bytes())
    if value["private"] and not call.belongs_to(value["owner"]["name"]):
        raise HubError(404, "Collection not found")
    if write:
        call.member(value["owner"]["name"])
    return value


def _write(call: Call, value: dict[str, Any]) -> dict[str, Any]:
    match = IDENTITY.fullmatch(value["slug"])
    assert match  # noqa: S101  # the slug is ours
    items = [{**item, "position": position} for position, item in enumerate(value["items"])]
    changed = {**value, "items": items, "lastUpdated": now()}
    write_atomic(_folder(call) / f"{match[1]}.json", canonical_json(changed))
    return changed


def _limited(call: Call, key: str, longest: int) -> str:
    text = call.text(key)
    if not 0 < len(text) <= longest:
        raise bad_request(f'"{key}" has 1 to {longest} characters')
    return text


def listing(call: Call) -> Response:
    """`GET /api/collections`, filtered by `owner` and `item` (`models/org/name`)."""
    query = call.request.query_params
    owner, item = query.get("owner"), query.get("item")
    rows = [
        each
        for each in _all(call)
        if owner in (None, each["owner"]["name"])
        and (item is None or item in {f"{member['type']}s/{member['id']}" for member in each["items"]})
    ]
    return JSONResponse([{key: value for key, value in row.items() if key != "position"} for row in rows])


def create(call: Call) -> Response:
    """`POST /api/collections`; a 409 for a title that its owner has already carries the slug, for `exists_ok`."""
    namespace, title = call.text("namespace"), _limited(call, "title", LONGEST_TITLE)
    call.member(namespace)
    with call.hub.store.lock:
        for each in _all(call):
            if (each["owner"]["name"], each["title"]) == (namespace, title):
                raise HubError(409, "This collection exists", extra={"slug": each["slug"]})
        words = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "collection"
        value = {
            "slug": f"{namespace}/{words}-{secrets.token_hex(12)}",
            "title": title,
            "description": call.text("description", ""),
            "owner": {"name": repo_name("models", namespace, "x").namespace, "type": "user"},
            "items": [],
            "position": 0,
            "private": call.body.get("private") is True,
            "theme": "orange",
            "upvotes": 0,
        }
        return JSONResponse(_write(call, value))


def details(call: Call) -> Response:
    """`GET /api/collections/{namespace}/{slug}`."""
    return JSONResponse(_read(call))


def change(call: Call) -> Response:
    """`PATCH /api/collections/{namespace}/{slug}`: title, description, visibility, theme, position."""
    with call.hub.store.lock:
        value = _read(call, write=True)
        kinds = {"title": str, "description": str, "private": bool, "theme": str, "position": int}
        for key, kind in kinds.items():
            if key in call.body and not isinstance(call.body[key], kind):
                raise bad_request(f'"{key}" must be a {kind.__name__}')
        changed = _write(call, {**value, **{key: call.body[key] for key in kinds if key in call.body}})
    return JSONResponse({"data": changed})


def delete(call: Call) -> Response:
    """`DELETE /api/collections/{namespace}/{slug}`."""
    with call.hub.store.lock:
        value = _read(call, write=True)
        (_folder(call) / f"{value['slug'][-24:]}.json").unlink()
    return JSONResponse({})


def add_item(call: Call) -> Response:
    """`POST …/items` `{"item": {"id", "type"}, "note"?}`.

    Raises:
        HubError: 404 when the repo does not exist, 409 when it is in the collection already.
    """
    item = call.body.get("item")
    if not isinstance(item, dict) or item.get("type") not in KINDS or not isinstance(item.get("id"), str):
        raise bad_request(f'"item" needs an "id" and a "type" of {", ".join(KINDS)}')
    namespace, _, name = item["id"].partition("/")
    if call.hub.store.find(repo_name(f"{item['type']}s", namespace, name)) is None:
        raise HubError(404, f"{item['id']} does not exist", code="RepoNotFound")
    with call.hub.store.lock:
        value = _read(call, write=True)
        if any((each["id"], each["type"]) == (item["id"], item["type"]) for each in value["items"]):
            raise HubError(409, f"{item['id']} is in this collection already")
        member: dict[str, Any] = {"_id": secrets.token_hex(12), "id": item["id"], "type": item["type"]}
        if "note" in call.body:
            member["note"] = {"text": _limited(call, "note", LONGEST_TEXT), "html": ""}
        return JSONResponse(_write(call, {**value, "items": [*value["items"], member]}))


def delete_item(call: Call) -> Response:
    """`DELETE …/items/{item}`."""
    with call.hub.store.lock:
        value = _read(call, write=True)
        left = [each for each in value["items"] if each["_id"] != call.params["item"]]
        if len(left) == len(value["items"]):
            raise HubError(404, "There is no such item")
        return JSONResponse(_write(call, {**value, "items": left}))
