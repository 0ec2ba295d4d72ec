"""Whether a token may do what a release needs, before anything long: asked of the Hub, never found out by writing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pruner.errors import InputError, UnavailableError
from pruner.hub_failures import endpoint_of, patiently
from release.hub.remote import hub_errors

if TYPE_CHECKING:
    from huggingface_hub import HfApi

EVERY = "*"
"""The organisation by which the rehearsal Hub says that its user belongs to all."""
READERS = ("read",)


@dataclass(frozen=True)
class Account:
    """Who a token belongs to.

    Attributes:
        name: the user.
        namespaces: the user's own and those of organisations where its role is more than reading.
        role: "read", "write", "fineGrained" or what else the Hub says; None when it does not.
        writable: of a fine-grained token, the namespaces and repos that it may write to; None for any other.
    """

    name: str
    namespaces: frozenset[str]
    role: str | None
    writable: frozenset[str] | None = None

    def may_write(self, repo: str) -> bool:
        """Whether the token may write into that repo, as far as the Hub tells."""
        namespace = repo.partition("/")[0]
        mine = namespace in self.namespaces or EVERY in self.namespaces
        return mine and self.role not in READERS and (self.writable is None or bool(self.writable & {namespace, repo}))


def account_of(api: HfApi) -> Account:
    """The account of the client's token.

    Raises:
        UnavailableError: the token is missing or not known, or the Hub cannot be reached.
    """
    with hub_errors(api.endpoint, "ask whose token this is"):
        return read_account(patiently(api.whoami, endpoint=api.endpoint))


def read_account(said: Mapping[str, Any]) -> Account:
    """What `whoami` says, read with suspicion: what is missing allows nothing, what is unknown forbids nothing."""
    orgs = said.get("orgs")
    listed = [org for org in orgs if isinstance(org, dict)] if isinstance(orgs, list) else []
    member = {str(org.get("name")) for org in listed if org.get("roleInOrg") not in READERS}
    auth = said.get("auth")
    token = auth.get("accessToken") if isinstance(auth, dict) else None
    token = token if isinstance(token, dict) else {}
    name, role = str(said.get("name", "")), token.get("role")
    fine = token.get("fineGrained")
    writable = _writable(fine) if role == "fineGrained" and isinstance(fine, dict) else None
    return Account(name, frozenset({name, *member}), str(role) if role is not None else None, writable)


def _writable(fine: Mapping[str, Any]) -> frozenset[str]:
    """Names of users, organisations and repos for which a fine-grained token has a permission such as `repo.write`."""
    found = set()
    scoped = fine.get("scoped")
    for scope in scoped if isinstance(scoped, list) else []:
        entity, permissions = (scope.get("entity"), scope.get("permissions")) if isinstance(scope, dict) else (None, None)
        if not isinstance(entity, dict) or not isinstance(permissions, list):
            continue
        if any(str(each).startswith("repo.") and str(each).endswith("write") for each in permissions):
            found.add(str(entity.get("name")))
    return frozenset(found)


def require_rights(api: HfApi, repos: Sequence[str], *, pull_request: bool = False) -> Account:
    """Require that every repo can be published to: it may be written, or created; for a pull request, it exists.

    Raises:
        InputError: no repo can have such a name.
        UnavailableError: the token may not do it, or the Hub cannot be reached.
    """
    for repo in repos:
        require_repo_name(repo)
    account, where = account_of(api), endpoint_of(api.endpoint)
    if account.role in READERS:
        raise UnavailableError(f"{where}: the token of {account.name} may only read; set HF_TOKEN to one that may write")
    for repo in repos:
        exists = repo_exists(api, repo)
        if pull_request and not exists:
            raise UnavailableError(f"{where}: {repo} does not exist or may not be seen, and a pull request needs a repo")
        if not pull_request and not account.may_write(repo):
            what = "write to" if exists else "create"
            raise UnavailableError(
                f"{where}: the token of {account.name} may not {what} {repo}; use another, or propose with --pr"
            )
    return account


def require_repo_name(repo: str) -> None:
    """Raise InputError for a name that no Hub would take."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not listed in __all__

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(f"{repo}: no repository can have this name: {str(error).splitlines()[0]}") from None


def repo_exists(api: HfApi, repo: str) -> bool:
    """Whether a model repo exists and may be seen."""
    with hub_errors(api.endpoint, f"look at {repo}"):
        return patiently(lambda: api.repo_exists(repo), endpoint=api.endpoint)
