"""What the Hub holds after a publication, compared with the digests that were meant."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pruner.errors import CheckFailedError
from pruner.files import git_blob_id, sha256_file
from pruner.wording import some
from release.hub.card_check import unreadable
from release.hub.remote import RemoteFile, RemoteTree, hub_api, remote_tree
from release.hub.small_files import download

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MOST_SHOWN = 5


def read_back(repo: str, revision: str, digests: Mapping[str, str], *, endpoint: str | None, token: str | None) -> None:
    """Require that every file of `digests` (path in the repo -> sha256) stands at `revision` with that digest.

    The card and results below `.eval_results/` must parse as well.

    Large files are compared by the digest under which the Hub stores them; the others are downloaded and hashed.

    Raises:
        CheckFailedError: a file is missing or differs; says which.
        UnavailableError: the Hub cannot be reached or shows no such revision.
    """
    api = hub_api(endpoint, token)
    tree = remote_tree(api, repo, revision)
    if tree is None:
        raise CheckFailedError(f"{repo}@{revision}: is not on {api.endpoint}; publish it first, or check the token")
    wrong = sorted(differences(api, repo, tree, digests))
    if wrong:
        raise CheckFailedError(f"{repo}@{revision}: the Hub does not hold what was built: {some(wrong, MOST_SHOWN)}")


def differences(api: HfApi, repo: str, tree: RemoteTree, digests: Mapping[str, str]) -> Iterator[str]:
    """One phrase for each file that is missing, has another digest, or is metadata that does not parse."""
    with tempfile.TemporaryDirectory() as folder:
        for path, expected in digests.items():
            file = tree.files.get(path)
            if file is None:
                yield f"{path} (missing)"
                continue
            found = file.sha256 or downloaded_digest(api, repo, tree.commit, file, Path(folder))
            if found != expected:
                yield f"{path} (sha256 {found[:12]}…, expected {expected[:12]}…)"
            elif file.sha256 is None and (problem := unreadable(path, Path(folder) / path)):
                yield f"{path} ({problem})"


def downloaded_digest(api: HfApi, repo: str, commit: str, file: RemoteFile, folder: Path) -> str:
    """SHA-256 of a small file's content as it is downloaded, whose name in git must fit as well."""
    local = download(api, repo, commit, file.path, folder)
    if git_blob_id(local.read_bytes()) != file.blob_id:
        raise CheckFailedError(f"{repo}: {file.path} arrived damaged (its git blob is not {file.blob_id}); run again")
    return sha256_file(local)
