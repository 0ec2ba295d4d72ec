"""`moe-release diff`: why two checkpoints differ, down to the expert."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path

from pruner.comparison.bytewise import compare_pairs
from pruner.comparison.differences import TensorDifference, alone, difference_found, pair_of, unlike
from pruner.comparison.expert_layout import laid_out_alike
from pruner.comparison.layers import LayerFinding, explain_layers
from pruner.comparison.packaging import (
    FileDifference,
    PackagingDifference,
    content_ids,
    file_differences,
    packaging_differences,
)
from pruner.comparison.sides import Side, counterparts, open_side
from pruner.families import Architecture
from pruner.progress import SILENT, Progress
from pruner.sources import Source
from pruner.wording import some
from pruner.workers import executor_or_threads

EXPERT_LAYOUT = PackagingDifference("expert layout", "", "one side stacks experts that the other numbers; compared as numbered")


@dataclass(frozen=True)
class Comparison:
    """The result of a diff; `verdict` is one sentence, `same_weights` says names, dtypes, shapes and bytes are equal."""

    labels: tuple[str, str]
    verdict: str
    same_weights: bool
    equal_bytes: bool
    tensors: int
    bytes: int
    experts_known: bool
    renamed: Mapping[str, str]
    differences: tuple[TensorDifference, ...]
    layers: tuple[LayerFinding, ...]
    packaging: tuple[PackagingDifference, ...]
    files: tuple[FileDifference, ...]


def diff(
    left: str | Path | Source,
    right: str | Path | Source,
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> Comparison:
    """Compare two checkpoints (folders, `hf://org/name@revision` or sources) or two safetensors files, A and B.

    Tensors are read in blocks of 1 MiB, in parallel on `executor` (default: `workers` threads, one per core).  Shards whose
    digests a Hub lists are not fetched when the other side's are equal.

    Raises:
        InputError: a side does not exist or is damaged.
        UnavailableError: a remote side cannot be reached.
    """
    sides = open_side(left), open_side(right)
    architecture = sides[0].architecture or sides[1].architecture
    if alike := laid_out_alike(sides[0].tensors, sides[1].tensors, architecture):
        sides = replace(sides[0], tensors=alike[0]), replace(sides[1], tensors=alike[1])
    pairs = counterparts(sides[0].tensors, sides[1].tensors)
    with executor_or_threads(executor, workers) as (pool, shared):
        differences = _tensor_differences(sides, pairs, architecture, pool, progress, shared=shared)
        layers = explain_layers(sides, architecture, differences, pool, progress) if architecture else ()
    packaging = (*((EXPERT_LAYOUT,) if alike else ()), *packaging_differences(*sides, pairs))
    files = file_differences(*sides)
    renamed = {name: other for name, other in pairs.items() if name != other}
    same = not differences and not renamed
    equal = same and not packaging and not files and set(sides[0].shards) == set(sides[1].shards)
    return Comparison(
        labels=(sides[0].label, sides[1].label),
        verdict=_verdict(differences, renamed, layers, packaging, files, compared=len(pairs)),
        same_weights=same,
        equal_bytes=equal,
        tensors=len(pairs),
        bytes=sum(sides[0].tensors[name].info.size for name in pairs),
        experts_known=architecture is not None,
        renamed=renamed,
        differences=differences,
        layers=layers,
        packaging=packaging,
        files=files,
    )


def _tensor_differences(
    sides: tuple[Side, Side],
    pairs: Mapping[str, str],
    architecture: Architecture | None,
    pool: Executor,
    progress: Progress,
    *,
    shared: bool,
) -> tuple[TensorDifference, ...]:
    """Differences in the order of A's data, then what only B has."""
    left, right = sides
    equal = _equal_shards(sides, pool)
    described = {name: (left.tensors[name].info, right.tensors[other].info) for name, other in pairs.items()}
    result = {name: each for name, infos in described.items() if (each := unlike(name, infos, architecture))}
    to_read = [
        pair_of(name, described[name], (left.whole(name), right.whole(other)), architecture)
        for name, other in pairs.items()
        if name not in result and not (name == other and left.tensors[name].shard in equal)
    ]
    found = compare_pairs(to_read, left.source, right.source, pool, progress, shared=shared)
    for pair, content in zip(to_read, found, strict=True):
        if each := difference_found(pair.name, described[pair.name], content, architecture):
            result[pair.name] = each
    for name in left.tensors:
        if name not in pairs:
            result[name] = alone(name, "only in A", left.tensors[name].info, architecture)
    in_order = [result[name] for name in left.tensors if name in result]
    extra = set(right.tensors) - set(pairs.values())
    only_right = [alone(name, "only in B", right.tensors[name].info, architecture) for name in right.tensors if name in extra]
    return (*in_order, *only_right)


def _equal_shards(sides: tuple[Side, Side], pool: Executor) -> frozenset[str]:
    """Shards of one name that a Hub's listing proves equal: digests are compared, at the most one side is read."""
    left, right = (side.files for side in sides)
    result = set()
    pending = {}
    for name in left:
        if name not in sides[0].shards or name not in sides[1].shards or left[name].size != right[name].size:
            continue
        digests = left[name].sha256, right[name].sha256
        if all(digests):
            result |= {name} if digests[0] == digests[1] else set()
        elif any(digests):
            read = sides[1] if digests[0] else sides[0]
            pending[name] = pool.submit(_sha256, read, name), digests[0] or digests[1]
    return frozenset(result | {name for name, (future, digest) in pending.items() if future.result() == digest})


def _sha256(side: Side, name: str) -> str:
    return content_ids(side.source, side.files[name]).sha256


def _verdict(
    differences: tuple[TensorDifference, ...],
    renamed: Mapping[str, str],
    layers: tuple[LayerFinding, ...],
    packaging: tuple[PackagingDifference, ...],
    files: tuple[FileDifference, ...],
    *,
    compared: int,
) -> str:
    """The result in one sentence; the first that holds, from equal to unrelated."""
    if not differences and not renamed:
        names = some([file.name for file in files])
        beside = f"; other files differ: {names}" if files else ""
        if packaging:
            return f"same weights, other packaging{beside}"
        return f"same weights in equal shards{beside}" if files else "equal bytes"
    if not differences:
        return "same bytes under other names"
    if not compared:
        return "different models: no tensor has the same name"
    return _weights_verdict(differences, layers)


def _weights_verdict(differences: Iterable[TensorDifference], layers: tuple[LayerFinding, ...]) -> str:
    explained = {finding.layer for finding in layers}
    others = [each for each in differences if each.layer not in explained]
    kinds = {finding.kind for finding in layers}
    outside = f"; elsewhere {_tensors(len(others))}" if others else ""
    if kinds == {"order"}:
        return f"same experts in another order{outside}"
    if kinds and kinds <= {"fewer", "more"}:
        one, two = ("B", "A") if kinds == {"fewer"} else ("A", "B")
        if len(kinds) == 1:
            return f"this looks like {one} is a prune of {two}: each of its experts is one of {two}'s{outside}"
    if replaced := [finding for finding in layers if finding.kind == "drop map"]:
        more = f" (and {len(replaced) - 1} more layers)" if len(replaced) > 1 else ""
        return f"this looks like the drop map differs: {replaced[0].text}{more}{outside}"
    differences = tuple(differences)
    if all(each.same_values for each in differences):
        return "same values, other dtype"
    return f"other weights: {_tensors(len(differences))}"


def _tensors(count: int) -> str:
    return "1 tensor differs" if count == 1 else f"{count:,} tensors differ"
