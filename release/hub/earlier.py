"""What of a repository is our own older release: files whose digests its `reproduce/` lists, unchanged since."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from pruner.errors import CheckFailedError
from pruner.files import sha256_bytes
from pruner.sources import SMALL_FILE_LIMIT
from release.hub.remote import RemoteTree
from release.hub.small_files import remote_text, small_file
from release.reproduce import LOCK, SUMS, published_places

if TYPE_CHECKING:
    from huggingface_hub import HfApi

LARGEST = 64 << 20
"""Bytes of an older lock or list of digests that is still read."""
LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\0\n]+)")
SHA256 = re.compile(r"[0-9a-f]{64}")


def stale_files(api: HfApi, repo: str, tree: RemoteTree, files: Collection[str]) -> tuple[str, ...]:
    """Paths that an older release of ours put into a repo, that `files` does not name, and that nobody changed since.

    Raises:
        UnavailableError: the Hub cannot be reached.
    """
    if LOCK not in tree.files and SUMS not in tree.files:
        return ()
    listed = dict(_listed(api, repo, tree))
    paths = sorted(path for path in listed.keys() & tree.files.keys() - set(files) if _plain(path))
    return tuple(path for path in paths if _digest(api, repo, tree, path) == listed[path])


def _plain(path: str) -> bool:
    """Whether a path from a foreign list is one of a file in a repository."""
    return not any(part in ("", ".", "..") for part in path.split("/"))


def _digest(api: HfApi, repo: str, tree: RemoteTree, path: str) -> str | None:
    """SHA-256 of a file of the repo, None for one that is larger than anything of ours that git holds itself."""
    file = tree.files[path]
    if file.sha256:
        return file.sha256
    return sha256_bytes(small_file(api, repo, tree.commit, file)) if file.size <= SMALL_FILE_LIMIT else None


def _listed(api: HfApi, repo: str, tree: RemoteTree) -> Iterator[tuple[str, str]]:
    """Path in the repo and digest of everything that the older release says of itself.  What cannot be read says nothing."""
    lock = _text(api, repo, tree, LOCK)
    try:
        outputs = json.loads(lock)["outputs"] if lock else {}
        locked = {str(path): str(entry["sha256"]) for path, entry in outputs.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        locked = {}
    for path, digest in locked.items():
        if SHA256.fullmatch(digest):
            yield from ((place, digest) for place in published_places(path).values())
    for line in (_text(api, repo, tree, SUMS) or "").splitlines():
        if match := LINE.fullmatch(line):
            yield match[2], match[1]


def _text(api: HfApi, repo: str, tree: RemoteTree, path: str) -> str | None:
    """A text of the repo, None when it has none of that name, a far larger one, or one that is no text."""
    with suppress(CheckFailedError):
        return remote_text(api, repo, tree, path, LARGEST)
    return None
