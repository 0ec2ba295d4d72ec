"""One request on its way through the Hub: who asks, for which repo, with which body."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote

from starlette.requests import Request
from starlette.responses import Response

from release.hub.server.access import Signer, Tokens, User, Verb
from release.hub.server.errors import HubError, bad_request, repository_not_found
from release.hub.server.names import RepoName, repo_name
from release.hub.server.store import Repository, Store
from release.hub.server.xet_storage import XetStorage

LARGEST_JSON = 16 << 20


@dataclass(frozen=True)
class Settings:
    """What a Hub allows.

    Attributes:
        part_size: bytes of one part of a multipart upload.
        multipart_from: size in bytes from which a large file is uploaded in parts.
        largest_regular: bytes from which any file is a large file.
        page_size: files on one page of a tree.
    """

    part_size: int = 64 << 20
    multipart_from: int = 512 << 20
    largest_regular: int = 10 << 20
    page_size: int = 1000


@dataclass
class Hub:
    """What every handler can reach.  `endpoint` and `storage` are the two origins, without a final slash."""

    store: Store
    xet: XetStorage
    tokens: Tokens
    signer: Signer
    settings: Settings
    endpoint: str = ""
    storage: str = ""

    def object_url(self, verb: Verb, digest: str, **fields: str | int) -> str:
        """A signed address of a content on the storage port."""
        return f"{self.storage}/objects/{digest}?{self.signer.query(verb, digest, **fields)}"

    def repo_url(self, name: RepoName) -> str:
        """The web address of a repo."""
        return f"{self.endpoint}{name.url_path}"


@dataclass(frozen=True)
class Call:
    """A request, its parameters from the address, its user (None: anonymous) and its body if that is small JSON or a form."""

    hub: Hub
    request: Request
    params: Mapping[str, str]
    user: User | None
    body: Mapping[str, Any]

    def repo_name(self) -> RepoName:
        """The repo that the address names."""
        return repo_name(self.params.get("kind", "models"), self.params["namespace"], self.params["name"])

    def repository(self, *, write: bool = False, member: bool = False) -> Repository:
        """The repo that the address names.

        Args:
            write: the token must be one that may write; everybody may propose.
            member: the user must belong to the repo's namespace as well.

        Raises:
            HubError: 401 or 404 when it is missing or private and not this user's; 401 or 403 when that is not allowed.
        """
        if member:
            self.member(self.params["namespace"])
        if write:
            self.writer()
        repository = self.hub.store.find(self.repo_name())
        if repository is None or not self.may_see(repository):
            raise repository_not_found(anonymous=self.user is None)
        return repository

    def may_see(self, repository: Repository) -> bool:
        """Whether the repo is public or the user's own."""
        return not repository.settings()["private"] or self.belongs_to(repository.name.namespace)

    def require_accepted(self, repository: Repository) -> None:
        """Raise HubError for the files of a gated repo: 401 without a token, 403 for who is no member and did not accept.

        Its listings are open to everybody who may see it.
        """
        if not repository.settings()["gated"] or self.belongs_to(repository.name.namespace):
            return
        if self.user is None:
            raise HubError(401, "Access to this repo is restricted; send a token", code="GatedRepo")
        if str(repository.name) not in self.user.accepted:
            raise HubError(403, "Access to this repo is restricted and you are not in the authorized list", code="GatedRepo")

    def belongs_to(self, namespace: str) -> bool:
        """Whether there is a user, who belongs to a namespace."""
        return self.user is not None and self.user.belongs_to(namespace)

    def writer(self) -> User:
        """The user, who may write.

        Raises:
            HubError: 401 without a token, 403 with one that may only read.
        """
        if self.user is None:
            raise HubError(401, "Invalid username or password.")
        if self.user.role != "write":
            raise HubError(403, "You don't have the required permissions: the token may only read")
        return self.user

    def member(self, namespace: str) -> User:
        """The user, who may write into a namespace.

        Raises:
            HubError: 401 without a token, 403 with one that may only read or belongs to somebody else.
        """
        user = self.writer()
        if not user.belongs_to(namespace):
            raise HubError(403, f"You don't have the rights to write in the namespace {namespace[:100]!r}")
        return user

    def text(self, key: str, default: str | None = None) -> str:
        """A text of the body.

        Raises:
            HubError: 400 when it is missing (and there is no default) or no text.
        """
        value = self.body.get(key, default)
        if not isinstance(value, str):
            raise bad_request(f'"{key}" must be a text')
        return value

    def flag(self, key: str) -> bool:
        """A flag of the query string."""
        return self.request.query_params.get(key, "").lower() in ("1", "true")


Handler = Callable[[Call], Response | Awaitable[Response]]


async def read_body(request: Request) -> dict[str, Any]:
    """The small body of a request: JSON, or a form whose values are lists.

    Raises:
        HubError: 413 above 16 MiB, 400 when it is not an object.
    """
    data = b"".join([block async for block in limited(request, LARGEST_JSON)])
    if not data:
        return {}
    if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        try:
            return dict(parse_qs(data.decode(), max_num_fields=10_000))
        except ValueError:
            raise bad_request("The form cannot be read, or has more than 10,000 fields") from None
    return json_object(data)


def json_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object that came from the network.

    Raises:
        HubError: 400 when it is something else.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise bad_request("The body is not JSON") from None
    if not isinstance(value, dict):
        raise bad_request("The body is not a JSON object")
    if b"\\ud" in data.lower():
        _require_unicode(value)
    return value


def _require_unicode(value: dict[str, Any]) -> None:
    """Refuse half of a surrogate pair, which JSON can escape and no file or answer can hold."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise bad_request("The body holds text that is not Unicode (a lone surrogate)") from None


async def limited(request: Request, largest: int) -> AsyncIterator[bytes]:
    """The blocks of a body.

    Raises:
        HubError: 413 once more than `largest` bytes have come.
    """
    seen = 0
    async for block in request.stream():
        seen += len(block)
        if seen > largest:
            raise HubError(413, f"The body is larger than {largest:,} bytes")
        yield block


def web_path(path: str) -> str:
    """A file's path as it stands in an address."""
    return quote(path, safe="/")
