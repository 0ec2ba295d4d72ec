"""What differs around the weights: headers, the split into shards, the index, config.json and all other files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pruner.checkpoint import INDEX
from pruner.comparison.bytewise import Stream
from pruner.comparison.sides import Side
from pruner.errors import InputError, printable
from pruner.files import BLOCK
from pruner.safetensors_format import Header
from pruner.sources import SMALL_FILE_LIMIT, ContentIds, Source, SourceFile, read_source_json
from pruner.wording import counted

KEYS_SHOWN = 50
"""Differing keys of one file that are listed; a tokenizer may have a hundred thousand."""
VALUE_WIDTH = 60
"""Characters of a differing value that are shown."""


@dataclass(frozen=True)
class PackagingDifference:
    """One difference that leaves the weights as they are: its kind, the file, and a sentence."""

    kind: str
    file: str
    text: str


@dataclass(frozen=True)
class FileDifference:
    """A file that is no weight and differs; `keys` are the differing places of a JSON file, at most `KEYS_SHOWN` of `count`."""

    name: str
    kind: str
    keys: tuple[str, ...] = ()
    count: int = 0


def packaging_differences(left: Side, right: Side, pairs: Mapping[str, str]) -> tuple[PackagingDifference, ...]:
    """Differences of shards, headers and index; `pairs` are the names of tensors on both sides."""
    return (
        *_split_differences(left, right, pairs),
        *(each for shard in left.shards if shard in right.shards for each in _header_differences(left, right, shard)),
        *_index_differences(left, right),
    )


def _split_differences(left: Side, right: Side, pairs: Mapping[str, str]) -> Iterator[PackagingDifference]:
    moved = [name for name, other in pairs.items() if left.tensors[name].shard != right.tensors[other].shard]
    if not moved:
        return
    groups = {(left.tensors[name].shard, right.tensors[other].shard) for name, other in pairs.items()}
    counts = f"{len(left.shards)} in A, {len(right.shards)} in B"
    if len(groups) == len(left.shards) == len(right.shards):
        yield PackagingDifference("shard names", moved[0], f"shards have other names ({counts}), each with the same tensors")
    else:
        yield PackagingDifference(
            "shard split", "", f"shards are split elsewhere ({counts}): {counted(len(moved), 'tensor')} moved"
        )


def _header_differences(left: Side, right: Side, shard: str) -> Iterator[PackagingDifference]:
    """Why two headers that describe the same tensors have other bytes; of other tensors there is nothing to say here."""
    headers = left.shards[shard], right.shards[shard]
    described = [{(tensor.name, tensor.dtype, tensor.shape) for tensor in header.tensors} for header in headers]
    if described[0] != described[1]:
        return
    raw = [_raw_header(side.source, shard, header) for side, header in zip((left, right), headers, strict=True)]
    if raw[0] == raw[1]:
        return
    seen = False
    for kind, text in _header_reasons(headers, raw):
        seen = True
        yield PackagingDifference(kind, shard, text)
    if not seen:
        yield PackagingDifference("spelling", shard, "the header's JSON is spelled differently (spaces or escapes)")


def _raw_header(source: Source, shard: str, header: Header) -> bytes:
    return source.read(shard, 8, header.data_start - 8)


def _header_reasons(headers: tuple[Header, Header], raw: list[bytes]) -> Iterator[tuple[str, str]]:
    if headers[0].metadata != headers[1].metadata:
        yield "metadata", f"header metadata: {_short(dict(headers[0].metadata))} in A, {_short(dict(headers[1].metadata))} in B"
    orders = [[tensor.name for tensor in header.tensors] for header in headers]
    if orders[0] != orders[1]:
        first = next(place for place, (one, two) in enumerate(zip(*orders, strict=True)) if one != two)
        yield "data order", f"tensors lie in another order: {orders[0][first]} in A, {orders[1][first]} in B come first"
    keys = [list(json.loads(text)) for text in raw]
    common = set(keys[0]) & set(keys[1])
    if [key for key in keys[0] if key in common] != [key for key in keys[1] if key in common]:
        yield "key order", "the header lists its keys in another order"
    padding = [len(text) - len(text.rstrip(b" ")) for text in raw]
    if padding[0] != padding[1]:
        yield "padding", f"the header is padded with {padding[0]} spaces in A, {padding[1]} in B"


def _index_differences(left: Side, right: Side) -> Iterator[PackagingDifference]:
    present = [INDEX in side.files for side in (left, right)]
    if present[0] != present[1]:
        yield PackagingDifference("index", INDEX, f"only {'A' if present[0] else 'B'} has an index")
    if not all(present) or same_content(left, right, INDEX):
        return
    contents = [read_source_json(side.source, INDEX, "the index") for side in (left, right)]
    metadata = [content.get("metadata") for content in contents]
    if metadata[0] != metadata[1]:
        said = f"index metadata: {_short(metadata[0])} in A, {_short(metadata[1])} in B"
        yield PackagingDifference("index", INDEX, said + _other_counts((left, right), metadata))
    elif contents[0] == contents[1]:
        yield PackagingDifference("index", INDEX, "the index lists the same in another order or spelling")


def _other_counts(sides: tuple[Side, Side], metadata: list[Any]) -> str:
    """Where an index does not say how many values its tensors hold; transformers leaves out buffers, such as `layer_scalar`."""
    notes = []
    for name, side, each in zip("AB", sides, metadata, strict=True):
        said = each.get("total_parameters") if isinstance(each, dict) else None
        held = sum(stored.info.elements for stored in side.tensors.values())
        if type(said) is int and said != held:
            notes.append(
                f"; {name}'s tensors hold {held:,} values, its index says {said:,} parameters"
                + (" (transformers leaves buffers out)" if said < held else "")
            )
    return "".join(notes)


def file_differences(left: Side, right: Side) -> tuple[FileDifference, ...]:
    """Differences of all files that are neither shards nor the index, in name order."""
    weights = {*left.shards, *right.shards, INDEX}
    result = []
    for name in sorted({*left.files, *right.files} - weights):
        if name not in right.files or name not in left.files:
            result.append(FileDifference(name, "only in A" if name in left.files else "only in B"))
        elif not same_content(left, right, name):
            result.append(_content_difference(left, right, name))
    return tuple(result)


def same_content(left: Side, right: Side, name: str) -> bool:
    """Whether a file is the same on both sides; what a Hub lists is believed, so that it need not be fetched."""
    files = left.files[name], right.files[name]
    if files[0].size != files[1].size:
        return False
    if _listed(files[0]) and _listed(files[1]):
        return _listed(files[0]) == _listed(files[1])
    if _listed(files[0]) or _listed(files[1]):
        known, read = (files[0], right) if _listed(files[0]) else (files[1], left)
        return content_ids(read.source, files[0]).fits(known)
    streams = [Stream(side.source.blocks(name, 0, files[0].size)) for side in (left, right)]
    steps = (min(BLOCK, files[0].size - start) for start in range(0, files[0].size, BLOCK))
    return all(streams[0].take(step) == streams[1].take(step) for step in steps)


def content_ids(source: Source, file: SourceFile) -> ContentIds:
    """Digests of a file, read once."""
    ids = ContentIds(file.size)
    for block in source.blocks(file.name, 0, file.size):
        ids.update(block)
    return ids


def _listed(file: SourceFile) -> str | None:
    return file.sha256 or file.blob_id


def _content_difference(left: Side, right: Side, name: str) -> FileDifference:
    if not name.endswith(".json") or max(side.files[name].size for side in (left, right)) > SMALL_FILE_LIMIT:
        return FileDifference(name, "content")
    try:
        contents = [read_source_json(side.source, name, "the file") for side in (left, right)]
        keys = list(json_differences(*contents))
    except (InputError, RecursionError):  # no JSON, or nested too deep to be walked through
        return FileDifference(name, "content")
    if not keys:
        return FileDifference(name, "formatting")
    return FileDifference(name, "content", tuple(keys[:KEYS_SHOWN]), len(keys))


def json_differences(left: Any, right: Any, path: str = "") -> Iterator[str]:
    """Each place where two JSON values differ: its dotted path and both values."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in {**left, **right}:
            here = printable(f"{path}.{key}" if path else key)
            if key in left and key in right:
                yield from json_differences(left[key], right[key], here)
            else:
                value = left[key] if key in left else right[key]
                yield f"{here}: {_short(value)} only in {'A' if key in left else 'B'}"
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for place, (one, two) in enumerate(zip(left, right, strict=True)):
            yield from json_differences(one, two, f"{path}[{place}]")
    elif left != right or type(left) is not type(right):
        yield f"{path or 'the whole file'}: {_short(left)} in A, {_short(right)} in B"


def _short(value: Any) -> str:
    if isinstance(value, list) and len(json.dumps(value)) > VALUE_WIDTH:
        return f"a list of {len(value):,}"
    text = printable(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= VALUE_WIDTH else f"{text[: VALUE_WIDTH - 1]}…"
