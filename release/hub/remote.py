"""The Hub seen from here: the client, its errors as one line, and what a repo holds."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pruner.errors import CheckFailedError
from pruner.hub_answers import limit_answers
from pruner.hub_failures import endpoint_of, garbled, harmless, one_line, patiently
from pruner.hub_source import COMMIT
from pruner.progress import SILENT, Progress

if TYPE_CHECKING:
    from huggingface_hub import HfApi

ASKED_AT_ONCE = 500
"""Paths in one request for their digests: the Hub refuses forms of more than a thousand fields."""


BLOB_ID, SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


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


def token_of(api: HfApi) -> str | None:
    """The token that a client was given; None when it takes what the environment has."""
    return api.token if isinstance(api.token, str) else None


@contextmanager
def hub_errors(endpoint: str, what: str) -> Iterator[None]:
    """Turn the client's errors into one line; `what` completes "cannot …".

    Raises:
        UnavailableError: no connection, no right, not found, overloaded, or no space on this disk.
        CheckFailedError: the Hub refused the request itself.
        InputError: a name that no Hub would take.
    """
    try:
        yield
    except Exception as error:
        translated = one_line(error, what, endpoint)
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


def commit_of(api: HfApi, repo: str, revision: str) -> str | None:
    """The commit that a revision of a model repo names, None when the repo or the revision does not exist.

    Raises:
        CheckFailedError: a commit was asked for, and the Hub answers with another.
        UnavailableError: the Hub cannot be reached or will not say.
    """
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    with hub_errors(api.endpoint, f"read {repo}@{revision}"):
        try:
            answered = str(patiently(lambda: api.model_info(repo, revision=revision), endpoint=api.endpoint).sha)
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            if isinstance(error, GatedRepoError):
                raise
            return None
    if COMMIT.match(revision) and answered != revision:
        raise CheckFailedError(
            f"{repo}@{revision}: {endpoint_of(api.endpoint)} answers with another commit, {harmless(answered)}"
        )
    return answered


def files_at(api: HfApi, repo: str, commit: str, paths: Sequence[str]) -> dict[str, RemoteFile]:
    """Those of some files of a model repo that a commit has, by path.

    Raises:
        UnavailableError: the Hub cannot be reached or will not say.
    """
    found: dict[str, RemoteFile] = {}
    with hub_errors(api.endpoint, f"read the digests of {repo}@{commit}"):
        for start in range(0, len(paths), ASKED_AT_ONCE):
            asked = list(paths[start : start + ASKED_AT_ONCE])
            rows = patiently(partial(api.get_paths_info, repo, asked, revision=commit), endpoint=api.endpoint)
            for file in map(_remote_file, rows):
                if file.path not in asked or file.path in found:
                    raise ValueError(file.path)
                found[file.path] = file
    return found


def tag_tree(api: HfApi, repo: str, tag: str) -> RemoteTree | None:
    """What a tag of a model repo holds, None when the repo has no such tag."""
    with hub_errors(api.endpoint, f"list the tags of {repo}"):
        tags = patiently(lambda: api.list_repo_refs(repo), endpoint=api.endpoint).tags
    return remote_tree(api, repo, tag) if any(found.name == tag for found in tags) else None


def _remote_file(item: object) -> RemoteFile:
    """A row of the listing; the `blob_id` of a large file is that of its pointer, and of no use.

    Raises:
        TypeError, ValueError: it is no file, or its size or digest is none.
    """
    from huggingface_hub import RepoFile

    if not isinstance(item, RepoFile):
        raise TypeError(item)
    sha256 = item.lfs.sha256 if item.lfs else None
    digest, form = (sha256, SHA256) if item.lfs else (item.blob_id, BLOB_ID)
    whole = type(item.size) is int and item.size >= 0
    if not whole or not isinstance(item.path, str) or not isinstance(digest, str) or not form.fullmatch(digest):
        raise ValueError(item.path)
    return RemoteFile(item.path, item.size, item.blob_id, sha256)


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
