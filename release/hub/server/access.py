"""Who asks, and who may put or fetch a content on the storage port."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlencode

from starlette.datastructures import Headers, QueryParams

from pruner.errors import InputError
from release.hub.server.errors import HubError

TOKEN = re.compile(r"hf_[A-Za-z0-9]{34,253}")
ADDRESS_LIFETIME = 6 * 3600.0
Verb = Literal["get", "put"]
LISTS = ("orgs", "accepted")


@dataclass(frozen=True)
class User:
    """The owner of a token; `role` is "write" or "read".  In the organisation "*" one is a member of all.

    `accepted` names the gated repos of others, "org/name", whose terms the user accepted.
    """

    name: str
    role: str = "write"
    orgs: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()

    def belongs_to(self, namespace: str) -> bool:
        """Whether the user may write into a namespace."""
        return namespace == self.name or namespace in self.orgs or "*" in self.orgs


class Tokens:
    """The users of a Hub.

    Without `tokens.json` in its folder, whatever looks like a token is the user "local", a member of every organisation.  With
    it, only the tokens whose SHA-256 it lists are known: `{"<sha256 of the token>": {"name": "alice", "role": "read", "orgs":
    ["org"], "accepted": ["other/gated"]}}`.  Private repos are their members' alone.
    """

    def __init__(self, folder: Path) -> None:
        self._users: dict[str, User] | None = None
        path = folder / "tokens.json"
        if path.exists():
            self._users = _read_users(path)

    def user(self, headers: Headers) -> User | None:
        """The user whose token the request carries, None when it carries none.

        Raises:
            HubError: 401 for a token that is not known.
        """
        given = headers.get("authorization")
        if given is None:
            return None
        scheme, _, token = given.partition(" ")
        user = self._find(token.strip()) if scheme.lower() == "bearer" else None
        if user is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        return user

    def _find(self, token: str) -> User | None:
        if not TOKEN.fullmatch(token):
            return None
        if self._users is None:
            return User("local", orgs=("*",))
        return self._users.get(hashlib.sha256(token.encode()).hexdigest())


def _read_users(path: Path) -> dict[str, User]:
    try:
        value = json.loads(path.read_bytes())
        return {
            digest: User(
                str(user["name"]), str(user.get("role", "write")), *(tuple(map(str, user.get(key, ()))) for key in LISTS)
            )
            for digest, user in value.items()
        }
    except (ValueError, AttributeError, TypeError, KeyError):
        form = '{"<sha256 of the token>": {"name": …, "role": "read" or "write", "orgs": […], "accepted": […]}}'
        raise InputError(f"{path}: cannot be read as {form}; correct or remove the file") from None


class Signer:
    """Signs the storage addresses that stand in for a token: each allows one verb on one content for some hours."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def query(self, verb: Verb, digest: str, **fields: str | int) -> str:
        """The query string that allows `verb` on the content."""
        words = {**{name: str(value) for name, value in fields.items()}, "until": str(int(time.time() + ADDRESS_LIFETIME))}
        return urlencode({**words, "signature": self._signature(verb, digest, words)})

    def check(self, verb: Verb, digest: str, query: QueryParams) -> None:
        """Raise HubError (403) unless the query string was made by `query` for this verb and content and is not too old."""
        words = {name: value for name, value in query.items() if name != "signature"}
        expected = self._signature(verb, digest, words)
        if not hmac.compare_digest(expected.encode(), query.get("signature", "").encode()):
            raise HubError(403, "The address was not signed by this Hub, or before it was last started")
        if float(words["until"]) < time.time():
            raise HubError(403, "The address has expired")

    def _signature(self, verb: Verb, digest: str, words: dict[str, str]) -> str:
        text = json.dumps([verb, digest, sorted(words.items())])
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()
