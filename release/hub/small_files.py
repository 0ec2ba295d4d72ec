"""Small files of a repository, read at one commit: cards, locks, lists of digests."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pruner.errors import CheckFailedError
from pruner.files import write_errors
from pruner.hub_failures import patiently
from release.hub.remote import RemoteTree, hub_errors, quiet_client

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def download(api: HfApi, repo: str, commit: str, path: str, folder: Path) -> Path:
    """Fetch one file into `folder`, whatever a cache holds.

    Raises:
        UnavailableError: the Hub cannot be reached, or does not give the file; or the folder's disk is full.
    """
    fetch = partial(api.hf_hub_download, repo, path, revision=commit, local_dir=folder, force_download=True)
    with hub_errors(api.endpoint, f"download {path} of {repo}"), quiet_client(), write_errors(folder / path):
        return Path(patiently(fetch, endpoint=api.endpoint))


def remote_text(api: HfApi, repo: str, tree: RemoteTree | None, path: str, largest: int) -> str | None:
    """A text at the commit of `tree`, None when it has no such file; bytes that are not UTF-8 are replaced.

    Raises:
        CheckFailedError: the file has more than `largest` bytes.
        UnavailableError: see `download`.
    """
    file = tree.files.get(path) if tree else None
    if tree is None or file is None:
        return None
    if file.size > largest:
        raise CheckFailedError(f"{repo}: {path} has {file.size:,} bytes; at most {largest:,} are read")
    with tempfile.TemporaryDirectory() as folder:
        return download(api, repo, tree.commit, path, Path(folder)).read_text(encoding="utf-8", errors="replace")
