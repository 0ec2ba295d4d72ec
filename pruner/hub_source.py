"""A repository of the Hub at one commit as a source: HTTP range requests that survive cut connections and busy servers.

huggingface_hub gives addresses, headers, the session and the listing.  Its own range reader (`parse_safetensors_file_metadata`)
reads headers only, does not retry, and returns tensors without the checks of `pruner.safetensors_format`, so it is not used.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from pruner.errors import InputError, UnavailableError
from pruner.hub_answers import LONGEST_ANSWER, PART, WHOLE, limit_answers
from pruner.hub_failures import BACK_OFF, TO_READ, http_failure, one_line, passes, patiently, say_again
from pruner.sources import TEMPLATES, SourceFile, is_plain_name
from pruner.workers import pause, require_wanted

GAP = 8 << 20
"""Bytes that a fast line brings in about the time of a request and its redirect to storage."""
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as cut."""
SLOWEST = 10_000
"""Bytes a second that whatever is held in memory must come with, after a grace of minutes."""
COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class HubSource:
    """A model repository at a commit; `hub_source` makes one.  Can be pickled; the token is never shown."""

    repo: str
    commit: str
    files: Mapping[str, SourceFile] = field(repr=False)
    endpoint: str | None = None
    token: str | None = field(default=None, repr=False)
    pauses: tuple[float, ...] = BACK_OFF
    """Seconds before each new try; the count starts anew when a try brought bytes."""
    gap: int = GAP
    folders: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """`org/name@commit`, the commit shortened."""
        return f"{self.repo}@{self.commit[:12]}"

    def state(self, name: str) -> str:
        """The digest that the Hub lists."""
        file = self.files[name]
        return str(file.sha256 or file.blob_id)

    def read(self, name: str, start: int, length: int) -> bytes:
        """Exactly `length` bytes from `start`, unless they come too slowly to be waited for; see `Source.read`."""
        data, end = bytearray(), time.monotonic() + LONGEST_ANSWER + length / SLOWEST
        for block in self.blocks(name, start, length):
            data += block
            if time.monotonic() > end and len(data) < length:
                raise UnavailableError(
                    f"{self.label}/{name}: the server is too slow ({len(data):,} of {length:,} bytes came); run again later"
                )
        return bytes(data)

    def blocks(self, name: str, start: int, length: int) -> Iterator[bytes]:
        """The same in the blocks in which the network brings them; after a cut it goes on at the byte that is missing."""
        file = self.files.get(name)
        if file is None:
            raise InputError(f"{self.label}/{name}: there is no such file")
        position, end = start, start + length
        if end > file.size:
            raise InputError(f"{self.label}/{name}: truncated: {end - file.size:,} bytes are missing")
        tries = 0
        while position < end:
            begin = position
            try:
                for block in self._request(file, position, end):
                    position += len(block)
                    yield block
                    require_wanted()
            except Exception as error:
                tries = 0 if position > begin else tries
                if not passes(error) or tries >= len(self.pauses):
                    if (line := one_line(error, f"{self.label}/{name}", self.endpoint, TO_READ)) is not None:
                        raise line from None
                    raise
                if tries == 1:  # a single cut is nothing to talk about
                    say_again(self.endpoint)
                pause(max(self.pauses[tries], _asked_pause(error)))
                tries += 1

    def _request(self, file: SourceFile, position: int, end: int) -> Iterator[bytes]:
        """One request for the bytes up to `end`; a whole file is asked for without a range, as small ones may have none."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session  # type: ignore[attr-defined]  # public, not in __all__

        limit_answers()  # a worker process has huggingface_hub anew
        headers = {**build_hf_headers(token=self.token, library_name="moe-release"), "Accept-Encoding": "identity"}
        if position > 0 or end < file.size:
            headers["Range"] = f"bytes={position}-{end - 1}"
        url = hf_hub_url(self.repo, file.name, revision=self.commit, endpoint=self.endpoint)
        with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT) as response:
            self._require_answer(response, file, position, end)
            left = end - position
            for block in response.iter_bytes():
                left -= len(block)
                if left < 0:
                    raise self._refused(file, "sent more bytes than it was asked for")
                yield block
        if left:
            raise ConnectionError(f"{left} bytes did not arrive")

    def _require_answer(self, response: Any, file: SourceFile, position: int, end: int) -> None:
        from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]  # public, not in __all__

        hf_raise_for_status(response)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise self._refused(file, "compressed the bytes")
        if response.status_code == WHOLE and (position, end) == (0, file.size):
            length = response.headers.get("Content-Length")
            if length is not None and length != str(file.size):
                raise self._refused(file, f"has {length} bytes, the repository's listing says {file.size}")
        elif response.status_code != PART:
            raise self._refused(file, f"answered {response.status_code} to a range of bytes")
        elif (found := response.headers.get("Content-Range")) != f"bytes {position}-{end - 1}/{file.size}":
            raise self._refused(file, f"was asked for bytes {position}-{end - 1}/{file.size} and sent {str(found)[:80]!r}")

    def _refused(self, file: SourceFile, what: str) -> UnavailableError:
        return UnavailableError(f"{self.label}/{file.name}: the server {what}; download the repository and give its folder")


def hub_source(
    repo: str,
    revision: str = "main",
    *,
    endpoint: str | None = None,
    token: str | None = None,
    pauses: tuple[float, ...] = BACK_OFF,
) -> HubSource:
    """Resolve a revision to its commit, list its files, and pin both.

    Raises:
        InputError: the name of the repository or revision is none.
        UnavailableError: the Hub does not answer, or does not give the repository.
    """
    return _listed(repo, revision, "", endpoint, token, pauses)


def hub_file(
    repo: str,
    revision: str,
    path: str,
    *beside: str,
    endpoint: str | None = None,
    token: str | None = None,
    pauses: tuple[float, ...] = BACK_OFF,
) -> HubSource:
    """The source that has one file of a repository, which may stand in a folder of it, those `beside` it, and no other.

    Raises:
        InputError: the name of the repository, revision or file is none, or the repository has no such file.
        UnavailableError: the Hub does not answer, or does not give the repository.
    """
    where = f"hf://{repo}@{revision}/{path}"
    if not all(is_plain_name(part) and part not in (".", "") for part in path.split("/")):
        raise InputError(f"{where}: {path!r} is no path of a file in a repository")
    found = _listed(repo, revision, path.rpartition("/")[0], endpoint, token, pauses)
    for each in (path, *beside):
        if each not in found.files:
            raise InputError(f"hf://{repo}@{revision}/{each}: the repository has no such file; look at its list of files")
    return replace(found, files={each: found.files[each] for each in (path, *beside)})


def _listed(
    repo: str, revision: str, folder: str, endpoint: str | None, token: str | None, pauses: tuple[float, ...]
) -> HubSource:
    """A revision's commit, and the files of one folder: of the top with those of `TEMPLATES`."""
    from huggingface_hub import HfApi, RepoFile

    limit_answers()
    api = HfApi(endpoint=endpoint, token=token, library_name="moe-release")

    def below(folder: str, commit: str) -> list[Any]:
        tree = api.list_repo_tree(repo, path_in_repo=folder or None, revision=commit)
        inside = f"{folder}/" if folder else ""
        return [item for item in tree if item.path.startswith(inside) and is_plain_name(item.path[len(inside) :])]

    def listing() -> tuple[str, dict[str, SourceFile], tuple[str, ...]]:
        commit = _commit(api.model_info(repo, revision=revision).sha, repo, revision)
        items = below(folder, commit)
        folders = {item.path for item in items if not isinstance(item, RepoFile)}
        if TEMPLATES in folders:
            items += below(TEMPLATES, commit)
        files = {item.path: _file(item) for item in items if isinstance(item, RepoFile)}
        return commit, dict(sorted(files.items())), tuple(sorted(folders - {TEMPLATES}))

    waits = iter(pauses)
    with reading(f"hf://{repo}@{revision}", api.endpoint):
        commit, files, folders = patiently(listing, lambda _seconds: time.sleep(next(waits, 0.0)), endpoint=api.endpoint)
    return HubSource(repo, commit, files, api.endpoint, token, pauses, folders=folders)


def whole_listing(source: HubSource) -> HubSource:
    """The same source with the files of its folders too, by path.

    Raises:
        InputError: a name that no repository of ours has: it could lead a writer out of its folder.
        UnavailableError: the Hub does not answer.
    """
    from huggingface_hub import HfApi, RepoFile

    limit_answers()
    api = HfApi(endpoint=source.endpoint, token=source.token, library_name="moe-release")
    waits = iter(source.pauses)

    def listing() -> dict[str, SourceFile]:
        items = api.list_repo_tree(source.repo, revision=source.commit, recursive=True)
        return {item.path: _file(item) for item in items if isinstance(item, RepoFile)}

    with reading(f"hf://{source.repo}@{source.commit}", api.endpoint):
        files = patiently(listing, lambda _seconds: time.sleep(next(waits, 0.0)), endpoint=api.endpoint)
    for name in files:
        if not all(is_plain_name(part) and part not in (".", "") for part in name.split("/")):
            raise InputError(f"{source.label}: {name!r} is no path of a file")
    return replace(source, files=dict(sorted(files.items())), folders=())


def _commit(answered: str | None, repo: str, revision: str) -> str:
    """The commit that a Hub resolved a revision to, if it can be: locks and published metadata will name it."""
    if answered is None or not COMMIT.match(answered):
        raise UnavailableError(f"hf://{repo}@{revision}: the Hub named no commit of 40 hexadecimal digits")
    if COMMIT.match(revision) and answered != revision:
        raise UnavailableError(f"hf://{repo}@{revision}: the Hub answered with another commit, {answered}")
    return answered


def _file(item: Any) -> SourceFile:
    """A row of the listing; the `blob_id` of a large file is that of its pointer, and of no use.

    Raises:
        ValueError: its size or digest is none.
    """
    digest = item.lfs.sha256 if item.lfs else item.blob_id
    if type(item.size) is not int or not 0 <= item.size < 1 << 63 or not _DIGEST.fullmatch(digest):
        raise ValueError(item.path)
    if item.lfs:
        return SourceFile(item.path, item.size, sha256=item.lfs.sha256)
    return SourceFile(item.path, item.size, blob_id=item.blob_id)


@contextmanager
def reading(what: str, endpoint: str | None = None) -> Iterator[None]:
    """Turn the client's errors into one line about `what`.

    Raises:
        InputError, UnavailableError: see `hub_source`.
    """
    try:
        yield
    except Exception as error:
        if (line := one_line(error, what, endpoint, TO_READ)) is not None:
            raise line from None
        raise


def _asked_pause(error: Exception) -> float:
    """Seconds that the server asked to wait, cut down by `limit_answers`."""
    failure = http_failure(error)
    asked = failure.response.headers.get("Retry-After", "") if failure is not None else ""
    return float(asked) if asked.isdecimal() else 0.0
