"""What the Hub holds after a publication, compared with the digests that were meant."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from pruner.errors import CheckFailedError
from pruner.files import sha256_bytes
from pruner.hub_failures import endpoint_of
from pruner.wording import some
from release.hub.card_check import unreadable
from release.hub.remote import RemoteFile, commit_of, files_at, hub_api
from release.hub.small_files import small_file

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MOST_SHOWN = 5


def read_back(
    repo: str,
    revision: str,
    digests: Mapping[str, str],
    *,
    endpoint: str | None,
    token: str | None,
    commit: str | None = None,
    removed: Collection[str] = (),
) -> None:
    """Require that every file of `digests` (path in the repo -> sha256) stands at `revision` with that digest.

    The card and results below `.eval_results/` must parse as well.

    Large files are compared by the digest under which the Hub stores them; the others are downloaded and hashed.

    Args:
        repo: "namespace/name".
        revision: a commit, or what leads to one.
        digests: what must stand there.
        endpoint: address of the Hub, None for the environment's.
        token: None for the one of the environment or of huggingface_hub's store.
        commit: the commit that the revision must name; None for whichever it does.
        removed: paths that must not stand there any more.

    Raises:
        CheckFailedError: a file is missing, differs or should be gone, says which; or the revision names another commit.
        UnavailableError: the Hub cannot be reached.
    """
    api = hub_api(endpoint, token)
    found = commit_of(api, repo, revision)
    if found is None:
        raise CheckFailedError(
            f"{repo}@{revision}: is not on {endpoint_of(api.endpoint)}; publish it first, or check the token"
        )
    if commit not in (None, found):
        raise CheckFailedError(f"{repo}@{revision}: is {found[:12]} now and not {commit[:12]}, which was made; run again")
    wrong = sorted(differences(api, repo, found, digests, removed))
    if wrong:
        raise CheckFailedError(f"{repo}@{revision}: the Hub does not hold what was built: {some(wrong, MOST_SHOWN)}")


def differences(api: HfApi, repo: str, commit: str, digests: Mapping[str, str], removed: Collection[str] = ()) -> Iterator[str]:
    """One phrase for each file that is missing, has another digest, is metadata that does not parse, or should be gone."""
    files = files_at(api, repo, commit, [*digests, *removed])
    yield from (f"{path} (should be removed)" for path in removed if path in files)
    for path, expected in digests.items():
        file = files.get(path)
        problem = "missing" if file is None else _problem(api, repo, commit, file, expected)
        if problem:
            yield f"{path} ({problem})"


def _problem(api: HfApi, repo: str, commit: str, file: RemoteFile, expected: str) -> str | None:
    """What is wrong with a file that is there, None when nothing is."""
    content = b"" if file.sha256 else small_file(api, repo, commit, file)
    found = file.sha256 or sha256_bytes(content)
    if found != expected:
        return f"sha256 {found[:12]}…, expected {expected[:12]}…"
    return None if file.sha256 else unreadable(file.path, lambda: content)
