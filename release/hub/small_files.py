"""Small files of a repository, read into memory at one commit: cards, locks, lists of digests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pruner.errors import CheckFailedError
from pruner.hub_source import HubSource
from pruner.sources import SMALL_FILE_LIMIT, SourceFile, read_small
from release.hub.remote import RemoteFile, RemoteTree, token_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def small_file(api: HfApi, repo: str, commit: str, file: RemoteFile, largest: int = SMALL_FILE_LIMIT) -> bytes:
    """The content of a file, of the size and with the digest that the repo lists.

    Raises:
        CheckFailedError: the file has more than `largest` bytes.
        UnavailableError: the Hub cannot be reached, or gives something else.
    """
    if file.size > largest:
        raise CheckFailedError(f"{repo}: {file.path} has {file.size:,} bytes; at most {largest:,} are read")
    listed = SourceFile(file.path, file.size, file.sha256, None if file.sha256 else file.blob_id)
    source = HubSource(repo, commit, {file.path: listed}, api.endpoint, token_of(api))
    return read_small(source, file.path, "the file", largest)


def remote_bytes(api: HfApi, repo: str, tree: RemoteTree | None, path: str, largest: int) -> bytes | None:
    """A file at the commit of `tree`, None when it has no such file; see `small_file`."""
    file = tree.files.get(path) if tree else None
    return small_file(api, repo, tree.commit, file, largest) if tree and file else None


def remote_text(api: HfApi, repo: str, tree: RemoteTree | None, path: str, largest: int) -> str | None:
    """The same as text, with the line ends that it has.

    Raises:
        CheckFailedError: it has more than `largest` bytes, or is no UTF-8.
        UnavailableError: see `small_file`.
    """
    data = remote_bytes(api, repo, tree, path, largest)
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError:
        raise CheckFailedError(f"{repo}: {path} is no UTF-8 text; mend or remove it there") from None
