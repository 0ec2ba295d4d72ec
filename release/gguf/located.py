"""A GGUF on this disk or on the Hub, in one file or in parts, with its header: read by ranges, without knowing which."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pruner.errors import InputError
from pruner.places import require_file
from pruner.sources import HUB_PREFIX, LocalSource, Source, SourceFile, is_plain_name, require_no_near_address
from release.gguf.reader import GgufHeader, GgufTensor, parse_header
from release.gguf.shards import all_shards
from release.gguf.split_headers import join_headers

_ADDRESS = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[^@\s/]+))?/(?P<path>[^@\s]+\.gguf)")


@dataclass(frozen=True)
class LocatedGguf:
    """A GGUF's header, and the source and file name to read its bytes from.

    Of a split one `name` is its first part, `header` that of the whole model, and `split` holds each part with its own header.
    """

    source: Source
    name: str
    header: GgufHeader
    split: tuple[LocatedGguf, ...] = ()

    @property
    def parts(self) -> tuple[LocatedGguf, ...]:
        """Its files, in order; the GGUF itself when it is one."""
        return self.split or (self,)

    def file_of(self, tensor: GgufTensor) -> str:
        """The name of the file that holds a tensor."""
        return self._elsewhere.get(tensor.name, self.name)

    @cached_property
    def _elsewhere(self) -> dict[str, str]:
        return {tensor.name: part.name for part in self.split[1:] for tensor in part.header.tensors}

    @property
    def label(self) -> str:
        """What reports call it: never an absolute path."""
        return f"{self.source.label}/{self.name}" if self.remote else self.name

    @property
    def remote(self) -> bool:
        """Whether every range costs a request."""
        return self.source.gap > 0

    @property
    def listed(self) -> str | None:
        """SHA-256 that the Hub lists, known without reading."""
        return self.source.files[self.name].sha256


def locate(address: str | Path, *, endpoint: str | None = None, token: str | None = None) -> LocatedGguf:
    """Open a GGUF by path or as `hf://owner/repo@revision/path/file.gguf`, and read and check its header.

    Of a split GGUF the first part is given, and the others stand beside it.  Without `endpoint` and `token` those of
    huggingface_hub's environment and store are used.

    Raises:
        InputError: there is no such file, or it is no usable GGUF.
        UnavailableError: the Hub does not answer, or does not give the file.
    """
    text = str(address)
    if isinstance(address, Path) or not text.startswith(HUB_PREFIX):
        require_no_near_address(text)
        path = Path(address)
        require_file(path, "a .gguf file, or hf://owner/repo@revision/file.gguf")
        if not is_plain_name(path.name):
            raise InputError(f"{path}: {path.name!r} is no printable file name; rename it")
        names = all_shards(path.name)
        for name in names[1:]:
            require_file(path.with_name(name), f"all {len(names)} parts of the split GGUF in one folder")
        return _opened(_FileSource(path.parent, tuple(names)), path.parent)
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise InputError(f"{text}: expected hf://owner/repo@revision/file.gguf")
    return locate_on_hub(match["repo"], match["revision"] or "main", match["path"], endpoint=endpoint, token=token)


def locate_on_hub(repo: str, revision: str, path: str, *, endpoint: str | None = None, token: str | None = None) -> LocatedGguf:
    """The same for a file of a repository, whose revision is resolved to its commit once.

    Raises:
        InputError, UnavailableError: see `locate`.
    """
    from pruner.hub_source import hub_file

    source = hub_file(repo, revision, *all_shards(path), endpoint=endpoint, token=token)
    return _opened(source, Path(source.label))


@dataclass(frozen=True)
class _FileSource(LocalSource):
    """Some files of a folder, and whatever they link to: the user named them."""

    only: tuple[str, ...] = ()

    @property
    def files(self) -> Mapping[str, SourceFile]:
        """The files as they are now."""
        return {name: SourceFile(name, (self.folder / name).stat().st_size) for name in self.only}


def _opened(source: Source, folder: Path) -> LocatedGguf:
    """The GGUF that all files of a source make; errors call them by `folder`."""
    parts: list[LocatedGguf] = []
    kept = 0
    for name in source.files:
        header = parse_header(_Ranges(source, name), source.files[name].size, folder / name, kept=kept)
        parts.append(LocatedGguf(source, name, header))
        kept = header.kept  # of all so far: many parts may not keep more than one
    joined = join_headers([part.header for part in parts])
    return LocatedGguf(source, parts[0].name, joined, tuple(parts) if len(parts) > 1 else ())


class _Ranges:
    """A source's file as the header's reader wants it."""

    def __init__(self, source: Source, name: str) -> None:
        self._source, self._name, self._position = source, name, 0
        self._size = source.files[name].size

    def seek(self, offset: int) -> int:
        self._position = offset
        return offset

    def read(self, size: int) -> bytes:
        count = max(min(size, self._size - self._position), 0)
        data = self._source.read(self._name, self._position, count)
        self._position += count
        return data
