"""Sources: a folder of files to read by ranges, on this disk or on the Hub, without knowing which."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pruner.errors import InputError, UnavailableError
from pruner.files import BLOCK, parse_json
from pruner.places import missing, require_possible
from pruner.progress import Advance
from pruner.safetensors_format import HEADER_LIMIT, Header, parse_header
from pruner.workers import require_wanted

if TYPE_CHECKING:
    from typing import Any

    from pruner.hub_source import HubSource
    from pruner.plan import ByteRange

SMALL_FILE_LIMIT = 100_000_000
"""Largest file in bytes that is held in memory: config, index, drop map."""
FIRST_READ = 256 << 10
"""Bytes of a shard that are read at once in the hope that they hold the whole header, which saves a request."""
HUB_PREFIX = "hf://"
TEMPLATES = "additional_chat_templates"
"""The folder in which transformers writes chat templates beside the default one: the only one that is part of a checkpoint."""
_NEAR_ADDRESS = re.compile(
    r"^(?:https?:/+[^/]+/(?!(?:datasets|spaces|api|collections)/)|hf:/?(?!/))(?P<repo>[\w.-]+/[\w.-]+)"
    r"(?:(?:/(?:tree|blob|resolve|commit)/|@)(?P<revision>[^@\s/]+))?"
)
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_FILES = (".yaml", ".yml", ".json", ".gguf", ".safetensors")
_HUB_ADDRESS = re.compile(r"^hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^@\s]+))?$")


@dataclass(frozen=True)
class SourceFile:
    """A file and what is known without reading it: on the Hub `sha256` of a large one, `blob_id` (git's SHA-1) of others."""

    name: str
    size: int
    sha256: str | None = None
    blob_id: str | None = None


class Source(Protocol):
    """A folder of files.  Implementations are small, immutable and can be pickled for worker processes."""

    @property
    def label(self) -> str:
        """What errors call it: never an absolute path, never a token."""
        ...

    @property
    def gap(self) -> int:
        """Bytes that are cheaper to read and to throw away than a new request: ranges no farther apart are read as one."""
        ...

    @property
    def files(self) -> Mapping[str, SourceFile]:
        """The files at the top of the folder by name, and those of `TEMPLATES` by path, in order."""
        ...

    @property
    def folders(self) -> tuple[str, ...]:
        """Names of the other folders in it, of which nothing is read."""
        ...

    def state(self, name: str) -> str:
        """Something that changes when the file's content does."""
        ...

    def read(self, name: str, start: int, length: int) -> bytes:
        """Exactly `length` bytes from `start`.

        Raises:
            InputError: there is no such file, or it ends before.
            UnavailableError: it cannot be reached, or the server does not serve the range.
        """
        ...

    def blocks(self, name: str, start: int, length: int) -> Iterator[bytes]:
        """The same in blocks of at most 1 MiB."""
        ...


@dataclass(frozen=True)
class LocalSource:
    """A folder on this disk: also a snapshot of Hugging Face's cache, whose files are symbolic links."""

    folder: Path
    gap: int = field(default=0, init=False)

    @property
    def label(self) -> str:
        """The folder's name; of a cache snapshot `org/name@commit`."""
        snapshot = self.snapshot
        return f"{snapshot[0]}@{snapshot[1][:12]}" if snapshot else self.folder.absolute().name

    @property
    def snapshot(self) -> tuple[str, str] | None:
        """Repository and commit of a cache snapshot, None of any other folder."""
        folder = self.folder.absolute()
        if folder.parent.name != "snapshots" or not folder.parent.parent.name.startswith("models--"):
            return None
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/", 1), folder.name

    @property
    def files(self) -> Mapping[str, SourceFile]:
        """The files as they are now."""
        if not self.folder.is_dir():
            raise InputError(f"{self.label}: {_no_folder(self.folder)}")
        templates = self.folder / TEMPLATES
        found = [path for path in self.folder.iterdir() if path.is_file()]
        found += [path for path in templates.iterdir() if path.is_file()] if templates.is_dir() else []
        names = {path.relative_to(self.folder).as_posix(): path for path in found}
        for name, path in names.items():
            linked = path.is_symlink() or (path.parent == templates and templates.is_symlink())
            if linked and not self._may_link(path.resolve()):
                raise InputError(f"{self.label}/{name}: a symbolic link that leaves the folder; copy the file instead")
        return {name: SourceFile(name, names[name].stat().st_size) for name in sorted(names)}

    @property
    def folders(self) -> tuple[str, ...]:
        """The other folders as they are now."""
        return tuple(sorted(path.name for path in self.folder.iterdir() if path.is_dir() and path.name != TEMPLATES))

    def _may_link(self, place: Path) -> bool:
        """Links stay among neighbours: the folder's own, a sibling folder's, or the blobs of a cache snapshot."""
        folder = self.folder.resolve()
        roots = [folder]
        if folder.parent.name == "snapshots":
            roots.append(folder.parent.parent / "blobs")
        return any(place.is_relative_to(root) for root in roots)

    def path(self, name: str) -> Path:
        """Path of a file, which lies at the top of the folder or in `TEMPLATES`.

        Raises:
            InputError: the name leads elsewhere.
        """
        if not is_plain_name(name.removeprefix(f"{TEMPLATES}/")):
            raise InputError(f"{self.label}: {name!r} is no file name")
        return self.folder / name

    def state(self, name: str) -> str:
        """Size and time of the last change."""
        found = self.path(name).stat()
        return f"{found.st_size} {found.st_mtime_ns}"

    def read(self, name: str, start: int, length: int) -> bytes:
        """Exactly `length` bytes from `start`; see `Source.read`."""
        return b"".join(self.blocks(name, start, length))

    def blocks(self, name: str, start: int, length: int) -> Iterator[bytes]:
        """The same in blocks of at most 1 MiB."""
        try:
            with self.path(name).open("rb", buffering=0) as file:
                file.seek(start)
                left = length
                while left:
                    block = file.read(min(BLOCK, left))
                    if not block:
                        raise InputError(f"{self.label}/{name}: truncated: {left:,} bytes are missing; fetch it again")
                    left -= len(block)
                    yield block
                    require_wanted()
        except OSError as error:
            raise InputError(f"{self.label}/{name}: cannot be read: {error.strerror}") from None


def is_plain_name(name: str) -> bool:
    """Whether a name is one of a file at the top of a folder; others could lead a build out of its own."""
    return Path(name).name == name and name != ".." and name.isprintable()


def open_source(address: str | Path, *, endpoint: str | None = None, token: str | None = None) -> LocalSource | HubSource:
    """The source that a path or `hf://org/name[@revision]` names; a branch or tag is resolved to its commit here, once.

    Without `endpoint` and `token` those of huggingface_hub's environment and store are used.

    Raises:
        InputError: the folder does not exist, or the address is none.
        UnavailableError: the Hub does not answer, or does not give the repository.
    """
    text = str(address)
    if isinstance(address, Path) or not text.startswith(HUB_PREFIX):
        require_no_near_address(text)
        require_no_repository(text)
        require_possible(Path(address))
        if not Path(address).is_dir():
            raise InputError(f"{text}: {_no_folder(Path(address))}")
        return LocalSource(Path(address))
    from pruner.hub_source import hub_source

    repo, revision = parse_address(text)
    return hub_source(repo, revision, endpoint=endpoint, token=token)


def _no_folder(path: Path) -> str:
    """What a path that is no folder is instead, and what to give."""
    if not path.is_file():
        return f"{missing(path)}; give a folder, or hf://org/name@revision"
    if path.suffix == ".gguf":
        return "is a GGUF file; give a folder, or hf://org/name@revision (for a .gguf target, the base is a .gguf file too)"
    if path.suffix in (".yaml", ".yml"):
        return "is a manifest; give the folder of its weights, such as build/NAME/weights"
    return "is a file; give a folder, or hf://org/name@revision"


def require_no_near_address(text: str) -> None:
    """Raise InputError for a repository's page or a misspelt address, with the address that was meant."""
    if match := _NEAR_ADDRESS.match(text):
        revision = f"@{match['revision']}" if match["revision"] else ""
        raise InputError(f"{text}: write hf://{match['repo']}{revision}")


def require_no_repository(text: str) -> None:
    """Raise InputError for what is no file here and could be a repository's name, with the address that was meant."""
    path = Path(text)
    if _REPOSITORY.fullmatch(text) and path.suffix not in _FILES and not path.exists() and not path.parent.exists():
        raise InputError(f"{text}: does not exist here; a repository on the Hub is written hf://{text}")


def parse_address(text: str) -> tuple[str, str]:
    """Repository and revision of `hf://org/name[@revision]`; the revision is `main` when none is given.

    Raises:
        InputError: the address is none.
    """
    match = _HUB_ADDRESS.match(text)
    if match is None:
        raise InputError(f"{text}: expected hf://org/name@revision")
    return match["repo"], match["revision"] or "main"


def as_source(base: Source | Path) -> Source:
    """A source as it is, a folder wrapped."""
    return LocalSource(base) if isinstance(base, Path) else base


class ContentIds:
    """SHA-256 and git's SHA-1 of a content of known size that arrives in blocks."""

    def __init__(self, size: int) -> None:
        self._sha256 = hashlib.sha256()
        self._blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)

    def update(self, block: bytes) -> None:
        """Take the next block."""
        self._sha256.update(block)
        self._blob.update(block)

    @property
    def sha256(self) -> str:
        """SHA-256 as lower-case hex."""
        return self._sha256.hexdigest()

    @property
    def blob_id(self) -> str:
        """The id that git gives the content."""
        return self._blob.hexdigest()

    def fits(self, file: SourceFile) -> bool:
        """Whether a listed file has this content, as far as its listing tells."""
        if file.sha256 is not None:
            return file.sha256 == self.sha256
        return file.blob_id in (None, self.blob_id)


def require_listed(source: Source, file: SourceFile, ids: ContentIds) -> None:
    """Raise UnavailableError when the bytes that arrived are not those of the digest that the source lists."""
    if not ids.fits(file):
        raise UnavailableError(f"{source.label}/{file.name}: arrived with another digest than its repository lists; try again")


def described(name: str, content: bytes) -> SourceFile:
    """A content in memory with both digests."""
    ids = ContentIds(len(content))
    ids.update(content)
    return SourceFile(name, len(content), ids.sha256, ids.blob_id)


def digested(source: Source, file: SourceFile, advance: Advance | None = None) -> SourceFile:
    """The file with both digests, read from its content.

    Raises:
        InputError, UnavailableError: see `Source.read`; it arrived damaged.
    """
    ids = ContentIds(file.size)
    for block in source.blocks(file.name, 0, file.size):
        ids.update(block)
        if advance:
            advance(len(block))
    require_listed(source, file, ids)
    return SourceFile(file.name, file.size, ids.sha256, ids.blob_id)


def read_small(source: Source, name: str, what: str, limit: int = SMALL_FILE_LIMIT) -> bytes:
    """A whole small file, checked against the digest that the source knows; `what` names it in errors.

    Raises:
        InputError: it is missing or larger than `limit`.
        UnavailableError: it cannot be reached, or arrived damaged.
    """
    file = source.files.get(name)
    if file is None:
        raise InputError(f"{source.label}/{name}: {what} does not exist")
    if file.size > limit:
        raise InputError(f"{source.label}/{name}: {what} has {file.size:,} bytes, more than {limit:,}; is it the right file?")
    data = source.read(name, 0, file.size)
    ids = ContentIds(file.size)
    ids.update(data)
    require_listed(source, file, ids)
    return data


def read_source_json(source: Source, name: str, what: str) -> Any:
    """Parse a small JSON file; raises InputError with line and column beside what `read_small` raises."""
    return parse_json(read_small(source, name, what), f"{source.label}/{name}", what)


def read_source_header(source: Source, name: str) -> Header:
    """Read and check the header of a shard by ranges; raises what `read_header` and `Source.read` raise."""
    file = source.files.get(name)
    if file is None:
        raise InputError(f"{source.label}/{name}: the shard does not exist")
    head = source.read(name, 0, min(file.size, FIRST_READ))
    end = 8 + int.from_bytes(head[:8], "little")
    if len(head) < end <= min(file.size, HEADER_LIMIT + 8):
        head += source.read(name, len(head), end - len(head))
    return parse_header(io.BytesIO(head), file.size, f"{source.label}/{name}")


def read_ranges(source: Source, ranges: Iterable[ByteRange]) -> Iterator[bytes]:
    """The bytes of the ranges one after the other, in blocks of at most 1 MiB; no block holds bytes of two ranges.

    Ranges of one file in ascending order, not farther apart than the source's `gap`, are read as one: on the Hub a request
    costs more than some megabytes that nobody needs.
    """
    for group in _groups(ranges, source.gap):
        first, last = group[0], group[-1]
        stream = source.blocks(first.file, first.start, last.start + last.length - first.start)
        yield from _cut_out(stream, group)


def _groups(ranges: Iterable[ByteRange], gap: int) -> Iterator[list[ByteRange]]:
    group: list[ByteRange] = []
    for part in ranges:
        if not part.length:
            continue
        end = group[-1].start + group[-1].length if group else 0
        if group and (part.file != group[-1].file or not 0 <= part.start - end <= gap):
            yield group
            group = []
        group.append(part)
    if group:
        yield group


def _cut_out(stream: Iterator[bytes], group: Iterable[ByteRange]) -> Iterator[bytes]:
    """Bytes of the ranges from a stream that begins with the first one and ends with the last."""
    block, position = b"", None
    for part in group:
        position = part.start if position is None else position
        skip, left = part.start - position, part.length
        while skip or left:
            block = block or next(stream)
            if skip:
                taken = min(skip, len(block))
                skip -= taken
            else:
                taken = min(left, len(block))
                left -= taken
                yield block[:taken]
            block = block[taken:]
        position = part.start + part.length
