"""Handlers of the tokens that name the Xet storage: a folder of this machine."""

from __future__ import annotations

import time

from starlette.responses import JSONResponse, Response

from release.hub.server.call import Call

TOKEN_LIFETIME = 3600


def write_token(call: Call) -> Response:
    """`GET …/xet-write-token/{revision}`: where a client with Xet puts large files."""
    call.repository(write=True)
    return _token(call)


def read_token(call: Call) -> Response:
    """`GET …/xet-read-token/{revision}`: where a client with Xet finds large files."""
    call.require_accepted(call.repository())
    return _token(call)


def _token(call: Call) -> Response:
    folder = call.hub.store.folder.absolute() / "xet"
    folder.mkdir(exist_ok=True)
    url, expiry = f"local://{folder}", int(time.time()) + TOKEN_LIFETIME
    headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": "local", "X-Xet-Token-Expiration": str(expiry)}
    return JSONResponse({"casUrl": url, "exp": expiry, "accessToken": "local"}, headers=headers)
