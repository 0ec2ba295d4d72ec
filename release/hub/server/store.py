"""The Hub's state on disk: repos, their refs and commits.  Everything is written whole, then renamed.

    blobs/ab/<sha256>                          contents
    repos/<kind>/<namespace>/<name>/repo.json  visibility and the like
                                   /commits/<oid>.json
                                   /refs/<kind of ref>/<quoted name>   one commit oid
                                   /discussions/<number>.json
    jobs/, collections/                        see the modules of these names

A commit is first an object that nothing refers to and then one rename of a ref file, so a crash leaves the old head.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from pruner.files import atomic_folder, canonical_json, write_atomic
from release.hub.server.blobs import BlobStore
from release.hub.server.commits import Changes, Commit, Tree, apply_changes, commit_bytes, commit_from, named, regular_entry
from release.hub.server.errors import HubError, revision_not_found
from release.hub.server.names import COMMIT_OID, RepoName, ref_name

GIT_ATTRIBUTES = "".join(
    f"*.{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in ("bin", "gguf", "parquet", "pt", "safetensors", "zip")
).encode()
REF_KINDS = ("heads", "tags", "pr")


def now() -> str:
    """The present in the one format that the client parses."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


class Repository:
    """One repo: its settings, refs and commits.  Hold the store's lock while changing it."""

    def __init__(self, name: RepoName, folder: Path) -> None:
        self.name = name
        self.folder = folder

    def settings(self) -> dict[str, Any]:
        """The repo's `private`, `gated`, `created`."""
        value: dict[str, Any] = json.loads((self.folder / "repo.json").read_bytes())
        return value

    def change_settings(self, changes: Mapping[str, Any]) -> None:
        """Replace some settings."""
        write_atomic(self.folder / "repo.json", canonical_json({**self.settings(), **changes}))

    def refs(self, kind: str) -> dict[str, str]:
        """The refs of a kind ("heads", "tags", "pr"): name -> commit oid."""
        folder = self.folder / "refs" / kind
        files = sorted(folder.iterdir()) if folder.exists() else []
        return {unquote(file.name): file.read_text().strip() for file in files if not file.name.startswith(".")}

    def read_ref(self, kind: str, name: str) -> str | None:
        """The commit that a ref points to, None when there is no such ref."""
        try:
            return self._ref_path(kind, name).read_text().strip()
        except FileNotFoundError:
            return None

    def set_ref(self, kind: str, name: str, oid: str) -> None:
        """Point a ref to a commit."""
        write_atomic(self._ref_path(kind, name), f"{oid}\n".encode())

    def delete_ref(self, kind: str, name: str) -> None:
        """Remove a ref."""
        self._ref_path(kind, name).unlink()

    def _ref_path(self, kind: str, name: str) -> Path:
        return self.folder / "refs" / kind / quote(ref_name(name), safe="")

    def find_ref(self, revision: str) -> tuple[str, str] | None:
        """Kind and name of the ref that a revision names, None for a commit or nothing."""
        if revision.startswith("refs/"):
            _, kind, name = [*revision.split("/", 2), ""][:3]
            return (kind, name) if kind in REF_KINDS and name and self.read_ref(kind, name) else None
        if COMMIT_OID.fullmatch(revision):
            return None
        try:
            ref_name(revision)
        except HubError:
            return None
        return next(((kind, revision) for kind in ("heads", "tags") if self.read_ref(kind, revision)), None)

    def resolve(self, revision: str) -> Commit:
        """The commit that a branch, tag, `refs/…` or 40-digit oid names.

        Raises:
            HubError: 404 RevisionNotFound.
        """
        ref = self.find_ref(revision)
        oid = self.read_ref(*ref) if ref else revision
        if oid is None or not COMMIT_OID.fullmatch(oid) or not self._commit_path(oid).exists():
            raise revision_not_found(revision)
        return self.commit(oid)

    def commit(self, oid: str) -> Commit:
        """Read a commit that is known to exist."""
        return commit_from(json.loads(self._commit_path(oid).read_bytes()), oid)

    def history(self, commit: Commit) -> Iterator[Commit]:
        """The commit and its ancestors, newest first."""
        current: Commit | None = commit
        while current:
            yield current
            current = self.commit(current.parent) if current.parent else None

    def add_commit(self, parent: Commit | None, tree: Tree, *, title: str, message: str, author: str) -> Commit:
        """Store a commit object that no ref points to yet."""
        oid = parent.oid if parent else None
        commit = named(Commit(parent=oid, title=title, message=message, author=author, date=now(), tree=tree))
        write_atomic(self._commit_path(commit.oid), commit_bytes(commit))
        return commit

    def _commit_path(self, oid: str) -> Path:
        return self.folder / "commits" / f"{oid}.json"


class Store:
    """All repos and contents of one Hub."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = BlobStore(folder)
        self.lock = threading.RLock()

    def repositories(self, kind: str) -> Iterator[Repository]:
        """Every repo of a kind, in the order of their names."""
        for file in sorted((self.folder / "repos" / kind).glob("[!.]*/[!.]*/repo.json")):
            yield Repository(RepoName(kind, file.parent.parent.name, file.parent.name), file.parent)

    def find(self, name: RepoName) -> Repository | None:
        """The repo of that name, None when there is none."""
        folder = self._folder(name)
        return Repository(name, folder) if (folder / "repo.json").exists() else None

    def create(self, name: RepoName, *, private: bool, author: str) -> Repository:
        """Create a repo with a first commit that holds `.gitattributes`, as the Hub does.

        Raises:
            HubError: 409 when a repo of that name exists.
        """
        with self.lock:
            if self.find(name):
                raise HubError(409, f"You already created this {name.kind[:-1]} repo: {name}")
            entry = regular_entry(GIT_ATTRIBUTES, self.blobs.add(GIT_ATTRIBUTES))
            with atomic_folder(self._folder(name)) as folder:
                repository = Repository(name, folder)
                tree = {".gitattributes": entry}
                commit = repository.add_commit(None, tree, title="initial commit", message="", author=author)
                repository.set_ref("heads", "main", commit.oid)
                settings = {"private": private, "gated": False, "created": now()}
                write_atomic(folder / "repo.json", canonical_json(settings))
            return Repository(name, self._folder(name))

    def delete(self, repository: Repository) -> None:
        """Remove a repo; its name is free at once."""
        with self.lock:
            doomed = repository.folder.with_name(f".{repository.folder.name}.deleted")
            shutil.rmtree(doomed, ignore_errors=True)
            repository.folder.rename(doomed)
            shutil.rmtree(doomed)

    def move(self, repository: Repository, name: RepoName) -> None:
        """Give a repo another name.

        Raises:
            HubError: 409 when the name is taken.
        """
        with self.lock:
            if self.find(name):
                raise HubError(409, f"A repo named {name} exists")
            target = self._folder(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            repository.folder.rename(target)

    def commit(self, repository: Repository, kind: str, name: str, changes: Changes, author: str) -> Commit:
        """Apply changes to a branch or pull request: one new commit, or the head itself when nothing changes.

        Raises:
            HubError: 412 when `changes.parent` is not the head, 404 when the ref or a deleted file is missing, 400 when a
                large file's content has not been uploaded.
        """
        with self.lock:
            head = repository.resolve(f"refs/{kind}/{name}")
            if changes.parent is not None and not head.oid.startswith(changes.parent):
                message = "A commit has happened since. Please refresh and try again."
                raise HubError(412, f"{message} (expected parent {changes.parent}, the head is {head.oid})")
            self.require_blobs(changes)
            tree = apply_changes(head.tree, changes, head.oid)
            if tree == head.tree:
                return head
            commit = repository.add_commit(head, tree, title=changes.title, message=changes.message, author=author)
            repository.set_ref(kind, name, commit.oid)
            return commit

    def require_blobs(self, changes: Changes) -> None:
        """Raise HubError (400) when the content of a file is not in the store."""
        for path, entry in changes.set_files.items():
            if self.blobs.size(entry.sha256) != entry.size:
                raise HubError(400, f"LFS pointer pointed to a file that does not exist: {path} (oid {entry.sha256})")

    def _folder(self, name: RepoName) -> Path:
        return self.folder / "repos" / name.kind / name.namespace / name.name
