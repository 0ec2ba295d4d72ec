"""Handlers of compute jobs: nothing is ever run here; what a client would send is written down and can be read back.

    jobs/<namespace>/<id>.json   the request's specification as it came, but of secrets only the names; owner, stage, time

A job stays in the stage SCHEDULING until it is cancelled.
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

JOB_ID = re.compile(r"[0-9a-f]{24}")
RECORDED = "recorded by the rehearsal Hub, which runs nothing"
MOST_WORDS = 1000


def _folder(call: Call) -> Path:
    """Where the jobs of the address's namespace lie."""
    namespace = repo_name("models", call.params["namespace"], "x").namespace
    return call.hub.store.folder / "jobs" / namespace


def _words(call: Call, key: str) -> list[str]:
    value = call.body.get(key, [])
    if not isinstance(value, list) or len(value) > MOST_WORDS or not all(isinstance(word, str) for word in value):
        raise bad_request(f'"{key}" must be a list of at most {MOST_WORDS} texts')
    return value


def _texts(call: Call, key: str) -> dict[str, Any]:
    value = call.body.get(key) or {}
    if not isinstance(value, dict) or not all(isinstance(item, (str, int, float)) for item in value.values()):
        raise bad_request(f'"{key}" must be an object of texts')
    return value


def submit(call: Call) -> Response:
    """`POST /api/jobs/{namespace}`: write a job down.

    Raises:
        HubError: 400 when it names no image, no command or values of another kind; 403 for another's namespace.
    """
    user = call.member(call.params["namespace"])
    if (call.body.get("dockerImage") is None) == (call.body.get("spaceId") is None):
        raise bad_request('Give either "dockerImage" or "spaceId"')
    call.text("dockerImage" if call.body.get("dockerImage") is not None else "spaceId")
    if not _words(call, "command"):
        raise bad_request('"command" must not be empty')
    _words(call, "arguments")
    timeout = call.body.get("timeoutSeconds", 1)
    if not isinstance(timeout, int) or timeout <= 0:
        raise bad_request('"timeoutSeconds" must be a positive whole number')
    for key in ("environment", "labels"):
        _texts(call, key)
    job = {
        **call.body,
        "flavor": call.text("flavor"),
        "secrets": dict.fromkeys(_texts(call, "secrets")),
        "id": secrets.token_hex(12),
        "createdAt": now(),
        "owner": {"id": "0" * 24, "name": call.params["namespace"], "type": "user"},
        "initiator": {"id": "0" * 24, "name": user.name, "type": "user"},
        "status": {"stage": "SCHEDULING", "message": RECORDED},
    }
    with call.hub.store.lock:
        write_atomic(_folder(call) / f"{job['id']}.json", canonical_json(job))
    return JSONResponse(job)


def _all(call: Call) -> Iterator[dict[str, Any]]:
    for file in sorted(_folder(call).glob("[0-9a-f]*.json")):
        yield json.loads(file.read_bytes())


def listing(call: Call) -> Response:
    """`GET /api/jobs/{namespace}`: the newest first, filtered by `stage` and `label` (`key=value`)."""
    call.member(call.params["namespace"])
    query = call.request.query_params
    stages, labels = query.getlist("stage"), [label.partition("=")[::2] for label in query.getlist("label")]
    rows = [
        job
        for job in _all(call)
        if (not stages or job["status"]["stage"] in stages)
        and all((job.get("labels") or {}).get(key) == value for key, value in labels)
    ]
    return JSONResponse(sorted(rows, key=lambda job: (job["createdAt"], job["id"]), reverse=True))


def _read(call: Call) -> dict[str, Any]:
    call.member(call.params["namespace"])
    number = call.params["job"]
    path = _folder(call) / f"{number}.json"
    if not JOB_ID.fullmatch(number) or not path.exists():
        raise HubError(404, "Job not found")
    job: dict[str, Any] = json.loads(path.read_bytes())
    return job


def details(call: Call) -> Response:
    """`GET /api/jobs/{namespace}/{job}`."""
    return JSONResponse(_read(call))


def cancel(call: Call) -> Response:
    """`POST /api/jobs/{namespace}/{job}/cancel`."""
    with call.hub.store.lock:
        job = {**_read(call), "status": {"stage": "CANCELED", "message": RECORDED}}
        write_atomic(_folder(call) / f"{job['id']}.json", canonical_json(job))
    return JSONResponse(job)
