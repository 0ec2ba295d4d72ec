"""A published release as a stranger has it: repositories on the Hub at one commit, and `reproduce/` in a folder of our own.

Everything here comes from somebody else: names may not leave the folder, sizes are bounded, and every byte is held against
the digest that the Hub lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pruner.errors import InputError, UnavailableError
from pruner.files import path_inside, write_atomic
from pruner.hub_source import HubSource, hub_source, whole_listing
from pruner.sources import Source, SourceFile, digested, open_source, read_small
from pruner.wording import counted
from release.lock import Lock, read_lock
from release.manifest import LoadedManifest, load_manifest
from release.reproduce import FOLDER, LOCK, MANIFEST

FILE_LIMIT = 64 << 20
TOTAL_LIMIT = 256 << 20
"""Bytes of `reproduce/`: evidence of large exams has a megabyte, an importance matrix some ten."""
MOST_FILES = 1000


@dataclass(frozen=True)
class PublishedRepository:
    """One repository at one commit; `source` reads any of its files, those of subfolders too."""

    repo: str
    source: HubSource

    @property
    def files(self) -> Mapping[str, SourceFile]:
        """All files by path."""
        return self.source.files

    def sha256(self, name: str) -> str | None:
        """SHA-256 of a file: as the Hub lists it, or of the bytes of a small one.  None when there is no such file.

        Raises:
            UnavailableError: it cannot be read, or arrived damaged.
        """
        file = self.files.get(name)
        if file is None or file.sha256 is not None:
            return file.sha256 if file else None
        return digested(self.source, file).sha256


def open_repository(repo: str, revision: str, *, endpoint: str | None = None, token: str | None = None) -> PublishedRepository:
    """Resolve the revision and list every file.

    Raises:
        InputError, UnavailableError: see `pruner.hub_source.hub_source`.
    """
    top = hub_source(repo, revision, endpoint=endpoint, token=token)
    return PublishedRepository(repo, whole_listing(top))


@dataclass(frozen=True)
class Published:
    """A weights repository with its `reproduce/` copied into `folder`."""

    weights: PublishedRepository
    folder: Path

    @cached_property
    def manifest(self) -> LoadedManifest:
        """The manifest, whose paths resolve inside the folder."""
        return load_manifest(self.path(MANIFEST))

    @cached_property
    def lock(self) -> Lock:
        """The lock of the release."""
        lock = read_lock(self.path(LOCK))
        if lock is None:
            raise InputError(f"{self.weights.source.label}: has no {LOCK}")
        return lock

    def path(self, name: str) -> Path:
        """Local path of a file of `reproduce/`, by its path in the repository.

        Raises:
            InputError: the name leads elsewhere.
        """
        return path_inside(self.folder, name)

    def shown(self, error: Exception) -> str:
        """An error without the temporary folder, which nobody knows."""
        return str(error).replace(f"{self.folder}/", "")


def fetch(repository: PublishedRepository, folder: Path) -> Published:
    """Copy `reproduce/` into a folder.

    Raises:
        InputError: there is none, a name leaves the folder, or it is larger than any that we publish.
        UnavailableError: a file cannot be had, or arrived damaged.
    """
    names = [name for name in repository.files if name.startswith(f"{FOLDER}/")]
    label = repository.source.label
    if MANIFEST not in names or LOCK not in names:
        advice = "it was not published by moe-release: try `moe-release infer`"
        if any(name.endswith(".gguf") for name in repository.files):
            advice = "those of a release's GGUFs stand with its weights: verify that repository, which the card names"
        raise InputError(f"{label}: has no {MANIFEST} and {LOCK}; {advice}")
    total = sum(repository.files[name].size for name in names)
    if len(names) > MOST_FILES or total > TOTAL_LIMIT:
        raise InputError(
            f"{label}: {FOLDER}/ has {counted(len(names), 'file')} and {total:,} bytes; a release's own has far less"
        )
    for name in names:
        target = path_inside(folder, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, read_small(repository.source, name, "a file of the release", FILE_LIMIT))
    return Published(repository, folder)


def base_of(published: Published, given: str | None) -> Source:
    """The base to hold the weights against.

    Raises:
        UnavailableError: the release names a base by path, which nobody else has, and none is given; or it cannot be read.
    """
    if given is not None:
        return open_source(given)
    base = published.manifest.content.base
    if base.repo is None:
        raise UnavailableError(f"the release names its base, {base.label}, by path: give your copy with --base FOLDER")
    from release.base import cached_or_remote

    return cached_or_remote(base.repo, str(base.revision))
