"""Commits as immutable JSON objects: what a tree holds, how it changes, how an object is named."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pruner.files import canonical_json, git_blob_id
from release.hub.server.errors import HubError, bad_request


@dataclass(frozen=True)
class FileEntry:
    """A file of a tree.

    Attributes:
        size: bytes of the content.
        oid: git's SHA-1: of the content, or for a large file of its LFS pointer.
        sha256: digest of the content, under which it is stored.
        lfs: whether the Hub treats it as a large file.
    """

    size: int
    oid: str
    sha256: str
    lfs: bool


Tree = Mapping[str, FileEntry]


@dataclass(frozen=True)
class Commit:
    """One state of a repo; `oid` is the SHA-1 of everything else."""

    parent: str | None
    title: str
    message: str
    author: str
    date: str
    tree: Tree
    oid: str = field(default="", compare=False)


@dataclass(frozen=True)
class Changes:
    """What a commit asks for, in the order of its lines."""

    title: str
    message: str
    parent: str | None
    set_files: Mapping[str, FileEntry]
    deleted_files: Sequence[str] = ()
    deleted_folders: Sequence[str] = ()


def lfs_pointer(sha256: str, size: int) -> bytes:
    """The pointer file that git holds in place of a large file (git-lfs specification v1)."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def regular_entry(data: bytes, sha256: str) -> FileEntry:
    """The entry of a file that git holds itself."""
    return FileEntry(len(data), git_blob_id(data), sha256, lfs=False)


def lfs_entry(sha256: str, size: int) -> FileEntry:
    """The entry of a large file."""
    return FileEntry(size, git_blob_id(lfs_pointer(sha256, size)), sha256, lfs=True)


def named(commit: Commit) -> Commit:
    """The commit with its oid, 40 hexadecimal digits."""
    return replace(commit, oid=hashlib.sha1(commit_bytes(commit), usedforsecurity=False).hexdigest())


def commit_bytes(commit: Commit) -> bytes:
    """The object as it is stored, without its own name."""
    value = asdict(commit)
    del value["oid"]
    return canonical_json(value)


def commit_from(value: Mapping[str, Any], oid: str) -> Commit:
    """Read a stored object."""
    tree = {path: FileEntry(**entry) for path, entry in value["tree"].items()}
    return Commit(**{**value, "tree": tree, "oid": oid})


def apply_changes(tree: Tree, changes: Changes, commit_oid: str) -> dict[str, FileEntry]:
    """The tree after `changes`.

    Raises:
        HubError: 404 when a file or folder to delete is not there, 400 when a file would stand where a folder is.
    """
    result = dict(tree)
    for path in changes.deleted_files:
        if result.pop(path, None) is None:
            raise _nothing_to_delete(path, commit_oid)
    for folder in changes.deleted_folders:
        inside = [path for path in result if path.startswith(folder.rstrip("/") + "/")]
        if not inside:
            raise _nothing_to_delete(folder, commit_oid)
        for path in inside:
            del result[path]
    result.update(changes.set_files)
    folders = {parent for path in result for parent in parents_of(path)}
    clash = folders & result.keys()
    if clash:
        raise bad_request(f"{min(clash)!r} cannot be a file and a folder")
    return result


def _nothing_to_delete(path: str, commit_oid: str) -> HubError:
    message = f"A file with this name doesn't exist: {path}"
    return HubError(404, message, code="EntryNotFound", headers={"X-Repo-Commit": commit_oid})


def parents_of(path: str) -> list[str]:
    """The folders above a path, outermost first."""
    segments = path.split("/")
    return ["/".join(segments[:depth]) for depth in range(1, len(segments))]
