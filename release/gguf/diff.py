"""Why two GGUFs differ: keys of the metadata, tensors down to the expert, or nothing but how they are packed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

from pruner.comparison.bytewise import Found, Pair, compare_pairs
from pruner.comparison.differences import TensorDifference
from pruner.errors import InputError
from pruner.plan import ByteRange
from pruner.progress import SILENT, Progress
from pruner.wording import counted
from pruner.workers import executor_or_threads
from release.gguf.experts import GgufExperts, find_experts
from release.gguf.located import LocatedGguf
from release.gguf.reader import GgufArray, GgufEntry, GgufHeader, GgufTensor
from release.gguf.shards import SPLIT_KEYS

NUMBERS = {"F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64"}
"""Types whose values are numbers of their own, under the names that safetensors has for them too."""
OPAQUE = "BOOL"
"""Stands for quantized types: of a block of bytes no values can be subtracted."""
SHOWN = 60
"""Letters of a value that a report shows."""


@dataclass(frozen=True)
class KeyDifference:
    """One key of the metadata: what A and B say, in words; None of the side that has no such key."""

    key: str
    a: str | None
    b: str | None


@dataclass(frozen=True)
class GgufComparison:
    """The result; `verdict` is one sentence, `same_weights` says that names, types, shapes and bytes of tensors are equal.

    `bytes` are those of tensors that both have, in A and in B; `packaging` is in words what lies elsewhere in the files without
    being said otherwise.
    """

    labels: tuple[str, str]
    verdict: str
    same_weights: bool
    equal_bytes: bool
    tensors: int
    bytes: tuple[int, int]
    keys: tuple[KeyDifference, ...]
    differences: tuple[TensorDifference, ...]
    packaging: tuple[str, ...]


def diff_ggufs(
    left: LocatedGguf,
    right: LocatedGguf,
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> GgufComparison:
    """Compare two GGUFs, A and B, whole or in parts.  Memory: some blocks of 1 MiB.

    What two repositories list under one digest is not read.

    Raises:
        InputError: a file is shorter than its header says.
        UnavailableError: a remote side cannot be reached.
    """
    one, two = ({tensor.name: tensor for tensor in side.header.tensors} for side in (left, right))
    both = [name for name in one if name in two]
    experts = _experts_of(left.header) or _experts_of(right.header)
    alike = _listed_alike(left, right)
    tensors, keys, headers, gaps = ([], [], [], []) if alike else _pairs(left, right, experts)
    with executor_or_threads(executor, workers) as (pool, shared):

        def unequal(pairs: list[Pair], shown: Progress = SILENT) -> dict[str, Found]:
            found = compare_pairs(pairs, left.source, right.source, pool, shown, shared=shared)
            return {pair.name: each for pair, each in zip(pairs, found, strict=True) if each.differing}

        contents, values, padding = unequal(tensors, progress), unequal(keys), unequal(gaps)
        same_headers = alike or (len(headers) == len(left.parts) and not unequal(headers))
    differences = (*_differences(one, two, contents, experts),)
    said = (*_keys(left.header, right.header, values),)
    packaging = (*_packaging(left, right, padded=bool(padding)),)
    if not (same_headers or differences or said or packaging):
        packaging = ("other bytes in the header, beside what its keys and tensors are: keys of a split, or padding",)
    return GgufComparison(
        labels=(left.label, right.label),
        verdict=_verdict((left.header, right.header), differences, said, packaging, compared=len(both)),
        same_weights=not differences,
        equal_bytes=not (differences or said or packaging),
        tensors=len(both),
        bytes=(sum(one[name].size for name in both), sum(two[name].size for name in both)),
        keys=said,
        differences=differences,
        packaging=packaging,
    )


def _pairs(left: LocatedGguf, right: LocatedGguf, experts: GgufExperts | None) -> tuple[list[Pair], ...]:
    """What can be laid side by side: tensors, keys, headers as they are, and what surrounds tensors."""
    sides = left, right
    one, two = ({tensor.name: tensor for tensor in side.header.tensors} for side in sides)
    tensors = [(tensor, two[name]) for name, tensor in one.items() if name in two]
    keys = [key for key, entry in left.header.entries.items() if _alike(entry, right.header.entries.get(key))]
    return (
        [_pair(sides, each, experts) for each in tensors if _description(each[0]) == _description(each[1])],
        [_key_pair(sides, key) for key in keys],
        *_frames(sides),
    )


def _listed_alike(left: LocatedGguf, right: LocatedGguf) -> bool:
    digests = [[part.source.files[part.name].sha256 for part in side.parts] for side in (left, right)]
    return digests[0] == digests[1] and all(digests[0])


def _description(tensor: GgufTensor) -> tuple[str, tuple[int, ...]]:
    return tensor.type.name, tensor.shape


def _experts_of(header: GgufHeader) -> GgufExperts | None:
    """Where the experts are; None of a model that has none, or of a layout that is not known."""
    try:
        return find_experts(header)
    except InputError:
        return None


def _pair(sides: tuple[LocatedGguf, LocatedGguf], tensors: tuple[GgufTensor, GgufTensor], experts: GgufExperts | None) -> Pair:
    name = tensors[0].name
    dtype = tensors[0].type.name if tensors[0].type.name in NUMBERS else OPAQUE
    left, right = (
        (ByteRange(side.file_of(tensor), tensor.offset, tensor.size),) for side, tensor in zip(sides, tensors, strict=True)
    )
    rows = tensors[0].shape[-1] if experts is not None and name in experts.tensors else None
    return Pair(name, (dtype, dtype), left, right, rows)


def _frames(sides: tuple[LocatedGguf, LocatedGguf]) -> tuple[list[Pair], list[Pair]]:
    """What no tensor and no key accounts for, where both sides have as much of it: headers, and what surrounds tensors."""
    headers, gaps = [], []
    for number, parts in enumerate(zip(sides[0].parts, sides[1].parts, strict=False)):
        one, two = parts
        if one.header.data_offset == two.header.data_offset:
            left, right = ((ByteRange(part.name, 0, part.header.data_offset),) for part in parts)
            headers.append(Pair(f"{number}", (OPAQUE, OPAQUE), left, right))
        before, after = (tuple(_gaps(part)) for part in parts)
        if before and _room(one) == _room(two):
            gaps.append(Pair(f"{number}", (OPAQUE, OPAQUE), before, after))
    return headers, gaps


def _gaps(part: LocatedGguf) -> Iterator[ByteRange]:
    """Bytes before, between and behind tensors."""
    at = part.header.data_offset
    for start, size in [*sorted((each.offset, each.size) for each in part.header.tensors), (part.header.file_size, 0)]:
        if start > at:
            yield ByteRange(part.name, at, start - at)
        at = max(at, start + size)


def _room(part: LocatedGguf) -> list[tuple[int, int]]:
    """The gaps, counted from where the tensors' bytes begin."""
    return [(gap.start - part.header.data_offset, gap.length) for gap in _gaps(part)]


def _differences(
    one: Mapping[str, GgufTensor],
    two: Mapping[str, GgufTensor],
    contents: Mapping[str, Found],
    experts: GgufExperts | None,
) -> Iterator[TensorDifference]:
    """Those of A's tensors in their order, then what only B has."""
    for name, tensor in one.items():
        other = two.get(name)
        if other is None:
            yield _difference("only in A", (tensor,), experts)
        elif tensor.shape != other.shape:
            yield _difference("shape", (tensor, other), experts)
        elif tensor.type != other.type:
            yield _difference("dtype", (tensor, other), experts)
        elif name in contents:
            yield _difference("bytes", (tensor, other), experts, contents[name])
    yield from (_difference("only in B", (tensor,), experts) for name, tensor in two.items() if name not in one)


def _difference(
    kind: str, tensors: tuple[GgufTensor, ...], experts: GgufExperts | None, found: Found | None = None
) -> TensorDifference:
    first = tensors[0]
    return TensorDifference(
        name=first.name,
        kind=kind,
        dtypes=tuple(tensor.type.name for tensor in tensors),
        shapes=tuple(tensor.shape for tensor in tensors),
        size=first.size,
        layer=experts.tensors.get(first.name) if experts else None,
        experts=found.rows if found else {},
        found=found,
    )


def _key_pair(sides: tuple[LocatedGguf, LocatedGguf], key: str) -> Pair:
    """A key with its value, by bytes: so long arrays are compared too, which no header keeps."""
    left, right = (
        (ByteRange(side.name, entry.start, _length(entry)),) for side in sides for entry in [side.header.entries[key]]
    )
    return Pair(key, (OPAQUE, OPAQUE), left, right)


def _alike(one: GgufEntry | None, two: GgufEntry | None) -> bool:
    """Whether the bytes of two values can be laid side by side."""
    return one is not None and two is not None and one.kind == two.kind and _length(one) == _length(two)


def _length(entry: GgufEntry) -> int:
    return entry.end - entry.start


def _keys(left: GgufHeader, right: GgufHeader, changed: Collection[str]) -> Iterator[KeyDifference]:
    """Keys in A's order, then those that only B has; those of a split tell of files and not of the model."""
    one, two = left.entries, right.entries
    for key in [*one, *(key for key in two if key not in one)]:
        if key in SPLIT_KEYS or (_alike(one.get(key), two.get(key)) and key not in changed):
            continue
        a, b = (None if entry is None else _shown(entry) for entry in (one.get(key), two.get(key)))
        if a is not None and a == b:
            a = b = f"{a}, with other content"
        yield KeyDifference(key, a, b)


def _shown(entry: GgufEntry) -> str:
    if isinstance(entry.value, GgufArray):
        array = entry.value
        if array.values is None or len(text := str(list(array.values))) > SHOWN:
            return f"{counted(array.count, 'element')} of {array.kind}"
        return text
    text = repr(entry.value) if isinstance(entry.value, str) else f"{entry.value} ({entry.kind})"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(str(entry.value)):,} letters)"


def _packaging(left: LocatedGguf, right: LocatedGguf, *, padded: bool) -> Iterator[str]:
    """What is packed otherwise, without being other keys or tensors."""
    one, two = left.header, right.header
    if len(left.parts) != len(right.parts):
        yield f"in {counted(len(left.parts), 'file')} in A, in {counted(len(right.parts), 'file')} in B"
    elif len(left.parts) > 1 and _counts(left) != _counts(right):
        yield "split at other tensors"
    if one.version != two.version:
        yield f"format version {one.version} in A, {two.version} in B"
    for what, names in (("keys", (one.entries, two.entries)), ("tensors", _names(one, two))):
        if set(names[0]) == set(names[1]) and list(names[0]) != list(names[1]):
            yield f"{what} in another order"
    in_order = len(left.parts) == len(right.parts) and _names(one, two)[0] == _names(one, two)[1]
    if in_order and [*map(_room, left.parts)] != [*map(_room, right.parts)]:
        yield "tensors at other places of the file, or more bytes around them"
    elif in_order and len(left.parts) == 1 and _places(one) != _places(two):
        yield "tensors at other places of the file"
    if padded:
        yield "other bytes around tensors, which nobody reads"


def _counts(side: LocatedGguf) -> list[int]:
    return [len(part.header.tensors) for part in side.parts]


def _names(one: GgufHeader, two: GgufHeader) -> tuple[list[str], list[str]]:
    return [tensor.name for tensor in one.tensors], [tensor.name for tensor in two.tensors]


def _places(header: GgufHeader) -> list[int]:
    return sorted(range(len(header.tensors)), key=lambda index: header.tensors[index].offset)


def _verdict(
    headers: tuple[GgufHeader, GgufHeader],
    differences: tuple[TensorDifference, ...],
    keys: tuple[KeyDifference, ...],
    packaging: tuple[str, ...],
    *,
    compared: int,
) -> str:
    """The result in one sentence; the first that holds, from equal to unrelated."""
    if not differences:
        if keys:
            return f"same weights, other metadata: {counted(len(keys), 'key')}"
        return "same weights and metadata, other packaging" if packaging else "equal bytes"
    architectures = [header.architecture[:SHOWN] for header in headers]
    if architectures[0] != architectures[1]:
        return f"different models: {architectures[0]!r} and {architectures[1]!r}"
    if not compared:
        return "different models: no tensor has the same name"
    kinds = {each.kind for each in differences}
    fewer = _fewer(*headers) if kinds <= {"shape", "dtype", "bytes"} else None
    rounded = _rounded(headers[0], differences) if kinds == {"bytes"} else None
    retyped = f"quantized otherwise: {counted(len(differences), 'tensor')} of other types" if kinds == {"dtype"} else None
    return fewer or rounded or retyped or f"other weights: {counted(len(differences), 'tensor')} with a difference"


def _rounded(header: GgufHeader, differences: tuple[TensorDifference, ...]) -> str | None:
    """What two quantizations of one model look like: what was not quantized is equal."""
    quantized = {tensor.name for tensor in header.tensors if tensor.type.quantized}
    if len(quantized) == len(header.tensors) or not {each.name for each in differences} <= quantized:
        return None
    share = f"other bytes in {len(differences):,} of {counted(len(quantized), 'quantized tensor')}, all others are equal"
    if 2 * len(differences) < len(quantized):  # a quantizer that decides otherwise does so nearly everywhere
        return f"{share}: a damaged copy, or weights that were changed there"
    return f"{share}: another imatrix, another llama.cpp, or other weights"


def _fewer(one: GgufHeader, two: GgufHeader) -> str | None:
    """What to do where one of the two has fewer experts."""
    counts = [header.model_value("expert_count") for header in (one, two)]
    if not all(isinstance(count, int) for count in counts) or counts[0] == counts[1]:
        return None
    small, large = ("B", "A") if int(counts[1] or 0) < int(counts[0] or 0) else ("A", "B")
    told = " and ".join(f"{count} in {side}" for count, side in zip(counts, "AB", strict=True))
    return f"{told} experts: `moe-release prove {small} --base {large}` tells whether {small} is a cut of {large}"
