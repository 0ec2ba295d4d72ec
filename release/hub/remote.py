"""The Hub seen from here: the client, its errors as one line, and what a repo holds."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pruner.errors import CheckFailedError, InputError, MoeReleaseError, UnavailableError
from pruner.hub_answers import limit_answers
from pruner.hub_failures import TRANSIENT, connection_failure, garbled, http_failure, patiently
from pruner.progress import SILENT, Progress

if TYPE_CHECKING:
    from huggingface_hub import HfApi

NO_SPACE = 507
GET_A_TOKEN = "set HF_TOKEN to a token that may write there, or run `hf auth login`"  # noqa: S105  # advice, not a token


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repo: `sha256` of a large file, None for one that git holds itself under `blob_id` (SHA-1)."""

    path: str
    size: int
    blob_id: str
    sha256: str | None


@dataclass(frozen=True)
class RemoteTree:
    """A commit of a repo and its files by path."""

    commit: str
    private: bool
    files: Mapping[str, RemoteFile]


def hub_api(endpoint: str | None, token: str | None) -> HfApi:
    """The client for an endpoint (None: the environment's, or huggingface.co).

    Without a `token` the one of the environment or of huggingface_hub's own store is used.
    """
    from huggingface_hub import HfApi

    limit_answers()
    return HfApi(endpoint=endpoint, token=token, library_name="moe-release")


def one_line(error: Exception, endpoint: str, what: str) -> MoeReleaseError | None:
    """The error for the user, None when it was not the Hub's doing."""
    from huggingface_hub.errors import HFValidationError

    if isinstance(error, MoeReleaseError):
        return error
    if isinstance(error, HFValidationError):
        return InputError(f"{what}: {str(error).splitlines()[0]}")
    failure = http_failure(error)
    if garbled(error):
        return UnavailableError(f"{endpoint}: its answer to {what} cannot be understood ({type(error).__name__}); is it a Hub?")
    if failure is None:
        if connection_failure(error):
            return UnavailableError(f"{endpoint}: cannot be reached to {what}; check the network, and HF_ENDPOINT or --hub")
        return None
    said = harmless(failure.server_message or "") or "no explanation"
    return _http_line(failure.response.status_code, said, endpoint, what)


CREDENTIAL = re.compile(r"(?i:bearer\s+\S+)|hf_[A-Za-z0-9]{8,}|gh[a-z]_[A-Za-z0-9]{20,}")
MOST_SAID = 200


def harmless(text: str) -> str:
    """What a server says, fit to be shown: one short line without control characters and without anything like a token."""
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return CREDENTIAL.sub("[token]", line)[:MOST_SAID]


def _http_line(status: int, said: str, endpoint: str, what: str) -> MoeReleaseError:
    if status in (401, 403):
        return UnavailableError(f"{endpoint}: may not {what} ({status}: {said}); {GET_A_TOKEN}")
    if status == 404:  # noqa: PLR2004
        return UnavailableError(f"{endpoint}: cannot {what} (404: {said}); check the name, and that your token may see it")
    if status in TRANSIENT or status == NO_SPACE:
        return UnavailableError(f"{endpoint}: cannot {what} now ({status}: {said}); run again later, finished uploads are kept")
    return CheckFailedError(f"{endpoint}: refused to {what} ({status}: {said})")


@contextmanager
def hub_errors(endpoint: str, what: str) -> Iterator[None]:
    """Turn the client's errors into one line; `what` completes "cannot …".

    Raises:
        UnavailableError: no connection, no right, not found, or overloaded.
        CheckFailedError: the Hub refused the request itself.
        InputError: a name that no Hub would take.
    """
    try:
        yield
    except Exception as error:
        translated = one_line(error, endpoint, what)
        if translated is None or translated is error:
            raise
        raise translated from (error if garbled(error) else None)  # it may be a bug of ours: MOE_RELEASE_TRACEBACK shows it


def remote_tree(api: HfApi, repo: str, revision: str = "main") -> RemoteTree | None:
    """What a revision of a model repo holds, None when the repo or the revision does not exist.

    Raises:
        UnavailableError: the Hub cannot be reached or will not say.
    """
    from huggingface_hub import RepoFile
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    def read() -> RemoteTree:
        info = api.model_info(repo, revision=revision)
        commit = str(info.sha)
        items = api.list_repo_tree(repo, revision=commit, recursive=True)
        files = {item.path: _remote_file(item) for item in items if isinstance(item, RepoFile)}
        return RemoteTree(commit, bool(info.private), files)

    with hub_errors(api.endpoint, f"read {repo}@{revision}"):
        try:
            return patiently(read, endpoint=api.endpoint)
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            if isinstance(error, GatedRepoError):
                raise
            return None


def tag_tree(api: HfApi, repo: str, tag: str) -> RemoteTree | None:
    """What a tag of a model repo holds, None when the repo has no such tag."""
    with hub_errors(api.endpoint, f"list the tags of {repo}"):
        tags = patiently(lambda: api.list_repo_refs(repo), endpoint=api.endpoint).tags
    return remote_tree(api, repo, tag) if any(found.name == tag for found in tags) else None


def _remote_file(item: object) -> RemoteFile:
    from huggingface_hub import RepoFile

    if not isinstance(item, RepoFile):
        raise TypeError(item)
    return RemoteFile(item.path, item.size, item.blob_id, item.lfs.sha256 if item.lfs else None)


@contextmanager
def quiet_client(progress: Progress = SILENT) -> Iterator[None]:
    """Keep huggingface_hub's bars off the screen; its warnings to the user become notes, those about itself are dropped."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but not listed in __all__
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    shown = not are_progress_bars_disabled()
    if shown:
        disable_progress_bars()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        if shown:
            enable_progress_bars()
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            progress.note(" ".join(str(warning.message).split()))
