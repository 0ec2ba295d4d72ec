"""The header of a GGUF file, read with bounds: a damaged or hostile file costs one line, not the machine's memory.

The format is described in `docs/gguf.md` of ggml: magic, version, counts, key-value pairs, tensor descriptions, then the
tensors' bytes from the next multiple of `general.alignment`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from pruner.errors import InputError
from release.gguf.types import BY_NUMBER, GgmlType

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAXIMUM_ENTRIES = 1 << 16
MAXIMUM_TENSORS = 1 << 16
MAXIMUM_ELEMENTS = 1 << 24
MAXIMUM_STRING = 16 << 20
MAXIMUM_NAME = 1024
"""Bytes of a key or of a tensor's name; ggml itself holds 64 of a name."""
MAXIMUM_DIMENSIONS = 4
MAXIMUM_HEADER = 128 << 20
KEPT_ELEMENTS = 4096
"""Arrays up to this length are kept as values; of longer ones only kind, length and place."""
OBJECT = 32
"""Bytes that a small value takes in memory, roughly."""
WINDOW = 1 << 20
"""Bytes of a header that are read at once; on the Hub that is a request."""
MAXIMUM_KEPT = 32 << 20
"""Bytes of names and values that are kept in all: far beyond any model's, and what bounds the memory of a hostile header."""

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_KINDS = {
    0: "u8", 1: "i8", 2: "u16", 3: "i16", 4: "u32", 5: "i32", 6: "f32", 7: "bool", 8: "str", 9: "array", 10: "u64", 11: "i64",
    12: "f64",
}  # fmt: skip
_LAYOUTS = {code: struct.Struct(f"<{code}") for code in _SCALARS.values()}

SCALAR_CODES = {_KINDS[number]: code for number, code in _SCALARS.items()}
"""`struct` code of each kind of number."""
KIND_NUMBERS = {kind: number for number, kind in _KINDS.items()}

Scalar = str | int | float | bool


@dataclass(frozen=True)
class GgufArray:
    """An array value: `start` is the file offset of its first element; `values` is None when it is long."""

    kind: str
    count: int
    start: int
    values: tuple[Scalar, ...] | None


@dataclass(frozen=True)
class GgufEntry:
    """One key-value pair and the byte range [start, end) that it takes in the file."""

    kind: str
    value: Scalar | GgufArray
    start: int
    end: int


@dataclass(frozen=True)
class GgufTensor:
    """One tensor: `shape` in ggml's order (row length first), `offset` from the start of the file, `size` in bytes."""

    name: str
    type: GgmlType
    shape: tuple[int, ...]
    offset: int
    size: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class GgufHeader:
    """All of a GGUF file but the tensors' bytes; `kept` is about what its names and values take in memory."""

    path: Path
    version: int
    entries: Mapping[str, GgufEntry]
    tensors: tuple[GgufTensor, ...]
    alignment: int
    data_offset: int
    file_size: int
    kept: int

    def value(self, key: str) -> Scalar | None:
        """The scalar under `key`, or None when the key is absent or an array."""
        entry = self.entries.get(key)
        return None if entry is None or isinstance(entry.value, GgufArray) else entry.value

    @property
    def architecture(self) -> str:
        """`general.architecture`, the prefix of the model's own keys; empty when absent."""
        return str(self.value("general.architecture") or "")

    def model_value(self, key: str) -> Scalar | None:
        """The scalar under the architecture's own `key`, such as `expert_count`."""
        return self.value(f"{self.architecture}.{key}")


class OpenFile(Protocol):
    """What is read of a file: bytes, from any place."""

    def seek(self, offset: int, /) -> int:
        """Go to a place."""
        ...

    def read(self, size: int, /) -> bytes | None:
        """At most `size` bytes from there; none at the end."""
        ...


class _Cursor:
    """Reads forward in a file, by windows that it holds in memory, and refuses to read past the file's end."""

    def __init__(self, path: Path, file: OpenFile, size: int, kept: int = 0) -> None:
        self.path, self.file, self.size, self.kept = path, file, size, kept
        self.window, self.start, self.at = b"", 0, 0

    @property
    def position(self) -> int:
        """Bytes of the file before the next one."""
        return self.start + self.at

    def fail(self, text: str) -> InputError:
        text = "".join(letter if letter.isprintable() else "?" for letter in text)  # it quotes the file's own names
        return InputError(f"{self.path}: {text} (byte {self.position:,} of {self.size:,})")

    def check(self, count: int, what: str) -> None:
        if count > self.size - self.position:
            raise self.fail(f"truncated or damaged GGUF: {what} needs {count:,} bytes, more than the file still holds")
        if self.position + count > MAXIMUM_HEADER:
            raise self.fail(f"damaged GGUF: its header is larger than {MAXIMUM_HEADER >> 20} MiB")

    def need(self, count: int, what: str) -> None:
        """Let the window hold the next `count` bytes."""
        self.check(count, what)
        if self.at + count <= len(self.window):
            return
        self.start, self.at, found = self.position, 0, bytearray()
        self.file.seek(self.start)
        wanted = min(max(count, WINDOW), self.size - self.start)
        while len(found) < wanted and (block := self.file.read(wanted - len(found))):
            found += block
        self.window = bytes(found)
        if len(self.window) < count:
            raise self.fail(f"GGUF shrank while {what} was read")

    def take(self, count: int, what: str) -> bytes:
        self.need(count, what)
        self.at += count
        return self.window[self.at - count : self.at]

    def keep(self, objects: int, size: int) -> None:
        self.kept += objects * OBJECT + size
        if self.kept > MAXIMUM_KEPT:
            raise self.fail(f"damaged GGUF: its header holds more than {MAXIMUM_KEPT >> 20} MiB of names and values")

    def skip(self, count: int, what: str) -> None:
        self.check(count, what)
        self.at += count

    def skip_strings(self, count: int, what: str) -> None:
        """Go past strings; of these nothing but the lengths is looked at, for a vocabulary has hundreds of thousands."""
        unpack = _LAYOUTS["Q"].unpack_from
        while count:
            self.need(_LAYOUTS["Q"].size, what)
            window, at, before, last = self.window, self.at, self.at, len(self.window) - _LAYOUTS["Q"].size
            done = 0
            for done in range(count):  # noqa: B007
                if at > last:
                    break
                before = at
                at += 8 + unpack(window, at)[0]
            else:
                done = count
            count -= done
            self.at = before
            self.skip(self.number("Q", what), what)  # the last one again: it may lead out of the window, or of the file

    def number(self, code: str, what: str) -> int:
        layout = _LAYOUTS[code]
        return int(layout.unpack(self.take(layout.size, what))[0])

    def string(self, what: str, *, strict: bool = True) -> str:
        length = self.number("Q", f"length of {what}" if strict else what)
        if length > (MAXIMUM_NAME if strict else MAXIMUM_STRING):
            raise self.fail(f"damaged GGUF: {what} claims {length:,} bytes")
        data = self.take(length, what)
        self.keep(1, length)
        try:
            return data.decode("utf-8", "strict" if strict else "replace")
        except UnicodeDecodeError:
            raise self.fail(f"damaged GGUF: {what} is not UTF-8") from None


def read_header(path: Path) -> GgufHeader:
    """Read and check the header of a GGUF file; the tensors' bytes are not read, only their places are checked.

    Raises:
        InputError: the file is missing, is no GGUF, is truncated or contradicts itself; one line with the byte position.
    """
    try:
        with path.open("rb", buffering=0) as file:
            return parse_header(file, path.stat().st_size, path)
    except OSError as error:
        raise InputError(f"{path}: GGUF cannot be read: {error.strerror}") from None


def parse_header(file: OpenFile, size: int, path: Path, *, kept: int = 0) -> GgufHeader:
    """The same of an open file of `size` bytes; `path` is what errors call it, `kept` what other headers keep in memory."""
    return _parse(_Cursor(path, file, size, kept))


def read_strings(header: GgufHeader, key: str) -> list[str]:
    """All elements of an array of strings, such as `tokenizer.ggml.tokens`; empty when `key` is no such array."""
    entry = header.entries.get(key)
    if entry is None or not isinstance(entry.value, GgufArray) or entry.value.kind != "str":
        return []
    array = entry.value
    with header.path.open("rb", buffering=0) as file:
        cursor = _Cursor(header.path, file, header.file_size)
        cursor.skip(array.start, key)
        return [cursor.string(key, strict=False) for _ in range(array.count)]


def _parse(cursor: _Cursor) -> GgufHeader:
    if cursor.size < len(MAGIC) or (magic := cursor.take(len(MAGIC), "magic")) != MAGIC:
        found = "empty" if not cursor.size else "too short" if cursor.size < len(MAGIC) else f"it starts with {magic!r}"
        raise cursor.fail(f"not a GGUF file: {found}")
    version = cursor.number("I", "version")
    if version not in VERSIONS:
        hint = "big-endian" if version & 0xFFFF == 0 else f"version {version}"
        raise cursor.fail(f"GGUF is {hint}; only little-endian versions {VERSIONS[0]} and {VERSIONS[1]} are supported")
    tensor_count = _count(cursor, "tensor count", MAXIMUM_TENSORS)
    entry_count = _count(cursor, "key count", MAXIMUM_ENTRIES)
    entries = _entries(cursor, entry_count)
    alignment = _alignment(cursor, entries)
    described = [_describe(cursor) for _ in range(tensor_count)]
    data_offset = -(-cursor.position // alignment) * alignment
    tensors = tuple(_place(cursor, each, data_offset, alignment) for each in described)
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise cursor.fail("damaged GGUF: two tensors have the same name")
    _require_apart(cursor, tensors)
    return GgufHeader(cursor.path, version, entries, tensors, alignment, data_offset, cursor.size, cursor.kept)


def _count(cursor: _Cursor, what: str, maximum: int) -> int:
    count = cursor.number("Q", what)
    if count > maximum:
        raise cursor.fail(f"damaged GGUF: {what} is {count:,}")
    return count


def _entries(cursor: _Cursor, count: int) -> dict[str, GgufEntry]:
    entries: dict[str, GgufEntry] = {}
    for _ in range(count):
        start = cursor.position
        key = cursor.string("key")
        if key in entries:
            raise cursor.fail(f"damaged GGUF: key {key!r} appears twice")
        kind = cursor.number("I", key)
        value = _value(cursor, kind, key)
        entries[key] = GgufEntry(_KINDS[kind], value, start, cursor.position)
    return entries


def _value(cursor: _Cursor, kind: int, key: str) -> Scalar | GgufArray:
    if kind == _STRING:
        return cursor.string(key, strict=False)
    if kind == _ARRAY:
        return _array(cursor, key)
    if kind not in _SCALARS:
        raise cursor.fail(f"damaged GGUF: {key} has the unknown value type {kind}")
    layout = _LAYOUTS[_SCALARS[kind]]
    value: Scalar = layout.unpack(cursor.take(layout.size, key))[0]
    return value


def _array(cursor: _Cursor, key: str) -> GgufArray:
    kind = cursor.number("I", key)
    count = _count(cursor, f"length of {key}", MAXIMUM_ELEMENTS)
    start = cursor.position
    values: tuple[Scalar, ...] | None = None
    if kind == _STRING:
        strings = [cursor.string(key, strict=False) for _ in range(count)] if count <= KEPT_ELEMENTS else None
        cursor.skip_strings(0 if strings is not None else count, key)
        values = None if strings is None else tuple(strings)
    elif kind in _SCALARS:
        layout = struct.Struct(f"<{count if count <= KEPT_ELEMENTS else 0}{_SCALARS[kind]}")
        cursor.keep(count if count <= KEPT_ELEMENTS else 0, 0)
        values = layout.unpack(cursor.take(layout.size, key)) if count <= KEPT_ELEMENTS else None
        cursor.skip(0 if values is not None else count * _LAYOUTS[_SCALARS[kind]].size, key)
    else:
        raise cursor.fail(f"damaged GGUF: {key} is an array of the unsupported type {kind}")
    return GgufArray(_KINDS[kind], count, start, values)


def _require_apart(cursor: _Cursor, tensors: Sequence[GgufTensor]) -> None:
    """llama.cpp takes no overlapping tensors either; a small file could ask for any amount of work with them."""
    for one, two in pairwise(sorted(tensors, key=lambda tensor: tensor.offset)):
        if one.offset + one.size > two.offset:
            raise cursor.fail(f"damaged GGUF: tensors {one.name!r} and {two.name!r} overlap")


def _alignment(cursor: _Cursor, entries: Mapping[str, GgufEntry]) -> int:
    entry = entries.get("general.alignment")
    alignment = entry.value if entry else DEFAULT_ALIGNMENT
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise cursor.fail(f"damaged GGUF: general.alignment is {alignment!r}, not a power of two")
    return alignment


_Described = tuple[str, GgmlType, tuple[int, ...], int]
"""Name, type, shape and offset from the start of the tensors' bytes."""


def _describe(cursor: _Cursor) -> _Described:
    name = cursor.string("tensor name")
    dimensions = cursor.number("I", name)
    if not 1 <= dimensions <= MAXIMUM_DIMENSIONS:
        raise cursor.fail(f"damaged GGUF: tensor {name!r} has {dimensions:,} dimensions")
    shape = tuple(cursor.number("Q", name) for _ in range(dimensions))
    number = cursor.number("I", name)
    if number not in BY_NUMBER:
        raise cursor.fail(f"tensor {name!r} has the ggml type {number}, which this version does not know")
    return name, BY_NUMBER[number], shape, cursor.number("Q", name)


def _place(cursor: _Cursor, described: _Described, data_offset: int, alignment: int) -> GgufTensor:
    name, kind, shape, offset = described
    elements = math.prod(shape)
    if not elements or elements >= 1 << 63 or shape[0] % kind.block_size:
        raise cursor.fail(f"damaged GGUF: tensor {name!r} of type {kind.name} has the shape {list(shape)}")
    if offset % alignment:
        raise cursor.fail(f"damaged GGUF: tensor {name!r} is not aligned to {alignment} bytes")
    tensor = GgufTensor(name, kind, shape, data_offset + offset, kind.size_of(elements))
    if tensor.offset + tensor.size > cursor.size:
        raise InputError(
            f"{cursor.path}: truncated GGUF: tensor {name!r} ends at byte {tensor.offset + tensor.size:,} "
            f"and the file has {cursor.size:,}; copy or download it again"
        )
    return tensor
