"""The base of a release: a folder beside the manifest, a snapshot of the Hub's repository at its pinned commit, or a copy.

A copy that the user has is trusted by nobody: its files must have the digests of the lock, or, where no lock is yet, those that
the Hub lists at the pinned commit (`require_listed`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pruner.checkpoint import Checkpoint, open_checkpoint
from pruner.errors import CheckFailedError, InputError, UnavailableError
from pruner.files import git_blob_id
from pruner.hub_answers import limit_answers
from pruner.hub_failures import TO_READ, harmless, one_line
from pruner.hub_source import HubSource, hub_source
from pruner.sources import LocalSource, Source, read_small
from release.documents import place_of_key
from release.manifest import LoadedManifest
from release.near_files import near_folder


def base_folder(loaded: LoadedManifest) -> Path:
    """Local folder of a manifest's base.

    A base on the Hub always comes from the client's own endpoint (HF_ENDPOINT or the public Hub): `--hub` says where a
    release goes, and a rehearsal has the real base.

    Raises:
        InputError: there is no such folder.
        UnavailableError: the Hub does not answer, or does not give the repository.
    """
    base = loaded.content.base
    _require_revision(loaded)
    folder = loaded.local_base
    if folder is None:
        return _download(str(base.repo), str(base.revision))
    if not folder.is_dir():
        if loaded.base_copy is not None:
            raise InputError(f"--base {folder}: is no folder")
        where, near = place_of_key(loaded.path, "base.path"), near_folder(loaded.root, str(base.path))
        raise InputError(f"{where}: {base.path!r} is no folder beside the manifest{near}; or give --base FOLDER")
    return folder


def base_source(loaded: LoadedManifest) -> Source:
    """The base as the build reads it: a folder, or a repository by ranges when nothing needs the whole base on this disk.

    Only kept experts are fetched then: a pinned drop map needs no analysis.  A complete snapshot in the cache is used instead,
    and with HF_HUB_OFFLINE whatever snapshot is there.

    Raises:
        InputError, UnavailableError: see `base_folder` and `hub_source`.
    """
    base, prune = loaded.content.base, loaded.content.prune
    _require_revision(loaded)
    if loaded.local_base is not None or prune is None or prune.drop_map is None:
        return LocalSource(base_folder(loaded))
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return LocalSource(base_folder(loaded))
    return cached_or_remote(str(base.repo), str(base.revision))


def cached_or_remote(repo: str, revision: str) -> Source:
    """A base on the Hub: the cache's snapshot when it is complete, else the repository by ranges.

    Raises:
        InputError, UnavailableError: see `hub_source`.
    """
    from huggingface_hub import get_token

    remote = hub_source(repo, revision, endpoint=None, token=get_token())
    return _cached(remote) or remote


def require_listed(loaded: LoadedManifest, copy: Checkpoint, digests: Mapping[str, str]) -> None:
    """Compare a copy of a base with what the Hub lists at the pinned commit; only headers and lists are fetched.

    Args:
        loaded: the manifest.
        copy: the user's own.
        digests: SHA-256 of its files.

    Raises:
        CheckFailedError: it is not the base: a file is missing, is one more, or has other bytes.
        UnavailableError: the Hub cannot be asked.
    """
    from huggingface_hub import get_token

    base = loaded.content.base
    remote = hub_source(str(base.repo), str(base.revision), endpoint=None, token=get_token())
    wanted = open_checkpoint(remote).files
    for name in sorted({*wanted, *digests}):
        listed = remote.files.get(name)
        if name not in wanted or listed is None:
            what = "is not of it; remove the file"
        elif name not in digests:
            what = "is missing; fetch it"
        elif listed.sha256 is not None and listed.sha256 != digests[name]:
            what = f"has SHA-256 {digests[name]}, the Hub lists {listed.sha256}; fetch it again"
        elif listed.sha256 is None and listed.blob_id != git_blob_id(read_small(copy.source, name, "a small file of the base")):
            what = "has other bytes than the Hub lists; fetch it again"
        else:
            continue
        raise CheckFailedError(f"{copy.source.label}/{name}: is no copy of {base.repo}@{base.revision}: {what}")


def header_source(loaded: LoadedManifest) -> Source:
    """The base's headers: from the manifest's description of them, else from the base itself.

    Raises:
        InputError, UnavailableError: see `described_base` and `base_source`.
    """
    from release.base_headers import described_base

    headers = loaded.content.base.headers
    return described_base(loaded.file(headers)) if headers else base_source(loaded)


def _require_revision(loaded: LoadedManifest) -> None:
    base = loaded.content.base
    if base.repo is not None and base.revision is None:
        raise InputError(
            f"{loaded.path}: the commit of {base.repo} is not known; give base.revision to build, "
            "or use --from-headers to plan and to render"
        )


def _cached(remote: HubSource) -> LocalSource | None:
    """The cache's snapshot of the same commit, if every file is there."""
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(remote.repo, name, revision=remote.commit) for name in remote.files]
    paths = [Path(path) for path in found if isinstance(path, str)]
    if not paths or len(paths) < len(found):
        return None
    depth = next(iter(remote.files)).count("/")  # of the first of them; it may be a chat template, which is in a folder
    return LocalSource(paths[0].parents[depth])


def has_snapshot(repo: str, revision: str) -> bool:
    """Whether the cache holds a snapshot of a commit, complete or not."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot_download(repo, revision=revision, local_files_only=True)
    except (LocalEntryNotFoundError, OSError, ValueError):
        return False
    return True


def _download(repo: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    what = f"base {repo}@{revision[:12]}"
    limit_answers()
    try:
        folder = Path(
            snapshot_download(repo, revision=revision, ignore_patterns=["*.bin", "*.pt", "*.pth", "*.gguf", "original/*"])
        )
    except Exception as error:
        if (line := one_line(error, what, None, TO_READ)) is not None:
            raise line from None
        if isinstance(error, (LocalEntryNotFoundError, OSError)):
            raise UnavailableError(f"{what}: cannot be downloaded: {harmless(str(error))}") from None
        raise
    if folder.name != revision:
        raise UnavailableError(f"{what}: the Hub answered with another commit, {folder.name}")
    return folder
