"""What a publication would change in a repository: files to set, files of our own older release to remove, bytes to send."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pruner.errors import InputError
from pruner.files import git_blob_id, sha256_bytes
from release.hub.earlier import stale_files
from release.hub.remote import RemoteFile, RemoteTree, remote_tree
from release.reproduce import JOINING

if TYPE_CHECKING:
    from huggingface_hub import HfApi

XET_KNOWN = 0.759
"""Share of a pruned shard's bytes that Xet storage knows when its base is on the Hub: measured with a cold shard cache; 0.993
with a warm one."""


@dataclass(frozen=True)
class PlannedFile:
    """A file to publish: path in the repo, bytes, digest."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class PublicationPlan:
    """What a publication would change.

    Attributes:
        repo: "namespace/name".
        head: the repo's commit now, None when the repo does not exist.
        private: whether the repo is private now, None when it does not exist.
        unchanged: files that stand there already.
        stored: files whose content the repo has under another path: no bytes travel.
        new: files to upload.
        stale: paths of an older release of ours that this one does not have, unchanged since: our commit removes them.
        foreign: paths in the repo that this release does not know; they stay unless they are pruned.
        pruned: those of them that the commit removes because the user asked for it.
    """

    repo: str
    head: str | None
    private: bool | None
    unchanged: tuple[PlannedFile, ...]
    stored: tuple[PlannedFile, ...]
    new: tuple[PlannedFile, ...]
    foreign: tuple[str, ...]
    stale: tuple[str, ...] = ()
    pruned: tuple[str, ...] = ()

    @property
    def new_bytes(self) -> int:
        """Bytes to upload (an upper bound: Xet storage may know parts of them)."""
        return sum(file.size for file in self.new)

    def estimated_bytes(self, *, base_on_hub: bool) -> int:
        """Bytes that travel over Xet, which knows most of each shard already when the base of the weights is on the Hub."""
        if not base_on_hub:
            return self.new_bytes
        shards = sum(file.size for file in self.new if file.path.endswith(".safetensors"))
        return self.new_bytes - round(shards * XET_KNOWN)

    @property
    def changes(self) -> tuple[PlannedFile, ...]:
        """The files that the commit would set."""
        return (*self.stored, *self.new)

    @property
    def removed(self) -> tuple[str, ...]:
        """The paths that the commit would remove."""
        return (*self.stale, *self.pruned)

    @property
    def settled(self) -> bool:
        """Whether there is nothing to do."""
        return not self.changes and not self.removed


def plan_publication(
    files: Mapping[str, Path], digests: Mapping[str, str], api: HfApi, repo: str, *, prune: bool = False
) -> PublicationPlan:
    """Compare the files of a release with what a repo holds; changes nothing.

    Args:
        files: path in the repo -> local file.
        digests: path in the repo -> sha256.
        api: the client.
        repo: "namespace/name".
        prune: plan to remove what is not of this release.

    Raises:
        InputError: `files` and `digests` name different paths, or a file is missing.
        UnavailableError: the Hub cannot be reached.
    """
    require_same_paths(files, digests)
    tree = remote_tree(api, repo)
    stale = stale_files(api, repo, tree, files) if tree else ()
    return compare_tree(files, digests, tree, repo, stale=stale, prune=prune)


def require_same_paths(files: Mapping[str, Path], digests: Mapping[str, str]) -> None:
    """Raise InputError unless every file exists and has one digest."""
    odd = sorted(files.keys() ^ digests.keys())
    if odd:
        raise InputError(f"{odd[0]}: every file to publish needs one digest in the lock; run the stage that makes it again")
    missing = sorted(str(file) for file in files.values() if not file.is_file())
    if missing:
        raise InputError(f"{missing[0]}: does not exist; run the stage that makes it again")


def compare_tree(
    files: Mapping[str, Path],
    digests: Mapping[str, str],
    tree: RemoteTree | None,
    repo: str,
    *,
    stale: tuple[str, ...] = (),
    prune: bool = False,
) -> PublicationPlan:
    """The plan against a tree that was read (None: the repo does not exist)."""
    remote = tree.files if tree else {}
    known = {file.sha256 for file in remote.values() if file.sha256}
    groups: dict[str, list[PlannedFile]] = {"unchanged": [], "stored": [], "new": []}
    for path, file in sorted(files.items()):
        planned = PlannedFile(path, file.stat().st_size, digests[path])
        if path in remote and _stands_there(planned, file, remote[path]):
            groups["unchanged"].append(planned)
        else:
            groups["stored" if planned.sha256 in known else "new"].append(planned)
    foreign = tuple(sorted(remote.keys() - files.keys() - set(stale)))
    return PublicationPlan(
        repo,
        head=tree.commit if tree else None,
        private=tree.private if tree else None,
        unchanged=tuple(groups["unchanged"]),
        stored=tuple(groups["stored"]),
        new=tuple(groups["new"]),
        foreign=foreign,
        stale=tuple(path for path in stale if path in remote),
        pruned=tuple(path for path in foreign if not path.startswith(JOINING)) if prune else (),
    )


def _stands_there(planned: PlannedFile, local: Path, remote: RemoteFile) -> bool:
    """Whether the Hub's file is the one that is meant; a file that git holds is compared by git's name for it."""
    if planned.size != remote.size:
        return False
    if remote.sha256 is not None:
        return remote.sha256 == planned.sha256
    data = local.read_bytes()
    return sha256_bytes(data) == planned.sha256 and git_blob_id(data) == remote.blob_id
