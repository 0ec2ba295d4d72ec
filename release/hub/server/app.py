"""Which request goes to which handler: the two tables at the end are the Hub's whole surface."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from starlette.concurrency import run_in_threadpool
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pruner.errors import UnavailableError
from release.hub.server import collections, discussions, files, jobs, large_files, repositories, revisions, upload, xet
from release.hub.server.call import Call, Handler, Hub, read_body
from release.hub.server.errors import HubError

LOOPBACK_HOSTS = ["127.0.0.1", "localhost"]


@dataclass(frozen=True)
class Route:
    """A method, a pattern of path segments and the handler.

    A segment `{name}` takes one decoded segment, so that a revision `refs%2Fpr%2F1` stays whole; a last segment `{path...}`
    takes all that are left.
    """

    method: str
    pattern: str
    handler: Handler
    streams: bool = False

    def match(self, method: str, segments: Sequence[str]) -> dict[str, str] | None:
        """The parameters when the route fits, else None."""
        words = self.pattern.strip("/").split("/")
        rest = words[-1].endswith("...}")
        fits = len(segments) >= len(words) if rest else len(segments) == len(words)
        if not fits or (method != self.method and (method, self.method) != ("HEAD", "GET")):
            return None
        params: dict[str, str] = {}
        for index, word in enumerate(words):
            if word.endswith("...}"):
                params[word[1:-4]] = "/".join(segments[index:])
            elif word.startswith("{"):
                params[word[1:-1]] = segments[index]
            elif word != segments[index]:
                return None
        return params


class HubApp:
    """The ASGI application of one port."""

    def __init__(self, hub: Hub, routes: Sequence[Route], *, tokens: bool) -> None:
        self._hub = hub
        self._routes = routes
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except HubError as error:
            response = error_response(error)
        except UnavailableError as error:
            response = error_response(HubError(507, str(error)))
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        segments = raw_segments(request.scope)
        for route in self._routes:
            params = route.match(request.method, segments)
            if params is not None:
                user = self._hub.tokens.user(request.headers) if self._tokens else None
                body = {} if route.streams else await read_body(request)
                return await _run(route.handler, Call(self._hub, request, params, user, body))
        raise HubError(404, "This address is not served by the rehearsal Hub")


async def _run(handler: Handler, call: Call) -> Response:
    if inspect.iscoroutinefunction(handler):
        streaming: Callable[[Call], Awaitable[Response]] = handler
        return await streaming(call)
    answer = await run_in_threadpool(handler, call)
    if not isinstance(answer, Response):
        raise TypeError(handler)
    return answer


def raw_segments(scope: Scope) -> list[str]:
    """The path's segments: split first, decoded second.

    Raises:
        HubError: 400 when a segment is not UTF-8 or holds a NUL.
    """
    raw: bytes = scope["raw_path"]
    try:
        segments = [unquote(part, errors="strict") for part in raw.decode("ascii").split("?")[0].strip("/").split("/")]
    except UnicodeDecodeError:
        raise HubError(400, "The address is not UTF-8") from None
    if any("\0" in segment for segment in segments):
        raise HubError(400, "The address holds a NUL")
    return segments


def error_response(error: HubError) -> JSONResponse:
    """The answer to a refused request, with the headers that the client turns into an exception."""
    words = "".join(letter if letter.isprintable() else "?" for letter in error.message)
    headers = {"X-Error-Message": words.encode("latin-1", "replace").decode("latin-1"), **error.headers}
    if error.code:
        headers["X-Error-Code"] = error.code
    return JSONResponse({"error": error.message, **error.extra}, status_code=error.status, headers=headers)


def application(hub: Hub, storage_port: int) -> ASGIApp:
    """The Hub as one ASGI application: the storage port serves contents, any other port the API.  Only loopback names serve."""
    api: ASGIApp = HubApp(hub, API, tokens=True)
    storage: ASGIApp = HubApp(hub, STORAGE, tokens=False)

    async def by_port(scope: Scope, receive: Receive, send: Send) -> None:
        await (storage if scope["server"][1] == storage_port else api)(scope, receive, send)

    return TrustedHostMiddleware(by_port, allowed_hosts=LOOPBACK_HOSTS, www_redirect=False)


REPO = "/api/{kind}/{namespace}/{name}"
STORAGE = (
    Route("GET", "/objects/{digest}", large_files.get_object),
    Route("PUT", "/objects/{digest}", large_files.put_object, streams=True),
    Route("POST", "/objects/{digest}", large_files.complete_object),
)
API = (
    Route("GET", "/api/whoami-v2", repositories.who_am_i),
    Route("POST", "/api/validate-yaml", upload.validate_card),
    Route("POST", "/api/repos/create", repositories.create),
    Route("DELETE", "/api/repos/delete", repositories.delete),
    Route("POST", "/api/repos/move", repositories.move),
    Route("GET", "/api/collections", collections.listing),
    Route("POST", "/api/collections", collections.create),
    Route("GET", "/api/collections/{namespace}/{slug}", collections.details),
    Route("PATCH", "/api/collections/{namespace}/{slug}", collections.change),
    Route("DELETE", "/api/collections/{namespace}/{slug}", collections.delete),
    Route("POST", "/api/collections/{namespace}/{slug}/items", collections.add_item),
    Route("DELETE", "/api/collections/{namespace}/{slug}/items/{item}", collections.delete_item),
    Route("GET", "/api/jobs/{namespace}", jobs.listing),
    Route("POST", "/api/jobs/{namespace}", jobs.submit),
    Route("GET", "/api/jobs/{namespace}/{job}", jobs.details),
    Route("POST", "/api/jobs/{namespace}/{job}/cancel", jobs.cancel),
    Route("GET", "/api/{kind}", repositories.listing),
    Route("GET", REPO, repositories.info),
    Route("GET", f"{REPO}/revision/{{revision}}", repositories.info),
    Route("PUT", f"{REPO}/settings", repositories.change_settings),
    Route("GET", f"{REPO}/tree/{{revision}}", files.tree),
    Route("GET", f"{REPO}/tree/{{revision}}/{{path...}}", files.tree),
    Route("POST", f"{REPO}/paths-info/{{revision}}", files.paths_info),
    Route("GET", f"{REPO}/refs", revisions.refs),
    Route("GET", f"{REPO}/commits/{{revision}}", revisions.commits),
    Route("POST", f"{REPO}/tag/{{revision}}", revisions.create_tag),
    Route("DELETE", f"{REPO}/tag/{{tag}}", revisions.delete_tag),
    Route("POST", f"{REPO}/branch/{{branch}}", revisions.create_branch),
    Route("DELETE", f"{REPO}/branch/{{branch}}", revisions.delete_branch),
    Route("POST", f"{REPO}/preupload/{{revision}}", upload.preupload),
    Route("POST", f"{REPO}/commit/{{revision}}", upload.commit, streams=True),
    Route("GET", f"{REPO}/xet-write-token/{{revision}}", xet.write_token),
    Route("GET", f"{REPO}/xet-read-token/{{revision}}", xet.read_token),
    Route("GET", f"{REPO}/discussions", discussions.listing),
    Route("POST", f"{REPO}/discussions", discussions.create),
    Route("GET", f"{REPO}/discussions/{{number}}", discussions.details),
    Route("POST", f"{REPO}/discussions/{{number}}/comment", discussions.comment),
    Route("POST", f"{REPO}/discussions/{{number}}/status", discussions.change_status),
    Route("POST", f"{REPO}/discussions/{{number}}/merge", discussions.merge),
    Route("POST", "/{namespace}/{name}/info/lfs/objects/batch", large_files.batch),
    Route("POST", "/{kind}/{namespace}/{name}/info/lfs/objects/batch", large_files.batch),
    Route("POST", "/{namespace}/{name}/info/lfs/verify", large_files.verify),
    Route("POST", "/{kind}/{namespace}/{name}/info/lfs/verify", large_files.verify),
    Route("GET", "/{namespace}/{name}/resolve/{revision}/{path...}", files.resolve),
    Route("GET", "/{kind}/{namespace}/{name}/resolve/{revision}/{path...}", files.resolve),
)
