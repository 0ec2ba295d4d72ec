"""The header of a model whose GGUF is in parts: what the parts say, held against each other and put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pruner.errors import InputError
from release.gguf.reader import GgufHeader
from release.gguf.shards import COUNT_KEY, NUMBER_KEY, SPLIT_KEYS, TENSORS_KEY


def join_headers(parts: Sequence[GgufHeader]) -> GgufHeader:
    """The header of the whole model: entries of the first part without those of the split, and the tensors of all parts.

    A tensor's offset is that in its own part; `file_size` is that of all parts together.

    Raises:
        InputError: the parts are not as many as they say, not in order, of several models, or hold a tensor twice.
    """
    first = parts[0]
    _require_numbered(parts)
    tensors = tuple(tensor for part in parts for tensor in part.tensors)
    if len(parts) > 1:
        _require_all(first, [tensor.name for tensor in tensors])
    return replace(
        first,
        entries={key: entry for key, entry in first.entries.items() if key not in SPLIT_KEYS},
        tensors=tensors,
        file_size=sum(part.file_size for part in parts),
    )


def _require_numbered(parts: Sequence[GgufHeader]) -> None:
    """Raise InputError unless each part has its number and says that it is one of so many."""
    for number, part in enumerate(parts):
        count = part.value(COUNT_KEY)
        if len(parts) == 1:
            if type(count) is int and count > 1:
                raise InputError(
                    f"{part.path}: is one of {count} parts of a split GGUF, and its name does not say which; "
                    f"name the parts NAME-00001-of-{count:05d}.gguf and so on"
                )
        elif (count, part.value(NUMBER_KEY)) != (len(parts), number):
            raise InputError(
                f"{part.path}: is not part {number + 1} of {len(parts)} of a split GGUF, as its name says; fetch it again"
            )


def _require_all(first: GgufHeader, names: Sequence[str]) -> None:
    expected = first.value(TENSORS_KEY)
    if len(set(names)) != len(names):
        raise InputError(f"{first.path}: the parts of this split GGUF hold a tensor twice; fetch them again, all of one model")
    if type(expected) is int and expected != len(names):
        raise InputError(f"{first.path}: this split GGUF has {expected:,} tensors, and its parts hold {len(names):,}")
