"""Proofs of cut GGUFs: the digests that a plan's files would have, computed from the base's GGUF, against the target's."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

from pruner.base_check import FollowingSource, require_known_digests
from pruner.digest_cache import DigestCache
from pruner.drop_map import DropMap, drop_map_from_keep
from pruner.errors import CheckFailedError, InputError
from pruner.locate import first_difference
from pruner.plan import PlannedShard
from pruner.progress import SILENT, Advance, Progress
from pruner.proof import Proof, Verdict
from pruner.sources import ContentIds, Source
from pruner.wording import counted
from release.gguf.cut import pins_of
from release.gguf.cut_plan import IMATRIX, CutPlan, CutTensor, file_type, plan_cut, read_parts
from release.gguf.experts import GgufExperts, find_experts
from release.gguf.located import LocatedGguf
from release.gguf.reader import GgufEntry, GgufTensor, parse_header
from release.gguf.side_digest import SideDigest
from release.gguf.split_plan import split_after

REMAKE = "`moe-release verify RELEASE --requantize` makes it again from the weights and the locked imatrix"
MOST_KEYS = 3
"""Keys that a report names."""


def prove_cut(
    target: LocatedGguf,
    base: LocatedGguf,
    *,
    drop_map: DropMap | None = None,
    shards: Callable[[CutPlan], Sequence[CutPlan]] | None = None,
    progress: Progress = SILENT,
    locate: bool | None = None,
    cache: DigestCache | None = None,
) -> Proof:
    """Compare a GGUF with what cutting `base` would write, by SHA-256; nothing is written.

    Of a target on the Hub nothing is read but header and routers; its digest is the one that the Hub lists.  The base's kept
    bytes are read once.  Memory: a few blocks of 1 MiB and one layer's routers.

    Args:
        target: what claims to be a cut of the base, or an equal quantization of the pruned model.
        base: the unpruned model's GGUF of the same type.
        drop_map: the map that was used; None to find it by the rows of the routers, which tell experts apart.
        shards: how the plan was split; None to take it from the target, whose parts say what they hold.
        progress: counts bytes.
        locate: read a BAD target up to the first byte that differs, to name key, tensor and expert (default: when it is local).
        cache: remembers the digest that cutting a base on the Hub gives; one that the target has not is computed again.

    Raises:
        InputError: one of the two has no experts that can be cut, they are of other architectures, or the map does not fit.
        UnavailableError: one of the two cannot be reached.
    """
    name = str(target.header.value("general.name") or "")
    try:
        found = infer_drop_map(target, base) if drop_map is None else drop_map
    except CheckFailedError as error:
        return _proof(target, base, [str(error)] * len(target.parts))
    plan = plan_cut(base, found, name=name, where="the drop map" if drop_map else target.label)
    plans = shards(plan) if shards else split_after(plan, [len(part.header.tensors) for part in target.parts])
    if len(plans) != len(target.parts):
        return _proof(
            target, base, [f"is in {counted(len(target.parts), 'file')}, planned is {len(plans)}"] * len(target.parts)
        )
    pairs = list(zip(plans, target.parts, strict=True))
    unlisted = sum(part.header.file_size for part in target.parts if not part.listed)
    with progress.task("digesting the planned GGUF", sum(each.size for each in plans) + unlisted, "bytes") as advance:
        equal = [_equal(each, part, base, advance, cache) for each, part in pairs]
    look = not target.remote if locate is None else locate
    told = "" if all(equal) else _honest_reason(plan, target)
    reasons = [None if same else _difference(*pair, base, look=look) + told for same, pair in zip(equal, pairs, strict=True)]
    return _proof(target, base, reasons)


def _proof(target: LocatedGguf, base: LocatedGguf, reasons: Sequence[str | None]) -> Proof:
    """Verdicts of the target's files, each with why it is BAD."""
    verdicts = [Verdict(part.name, part.header.file_size, reason) for part, reason in zip(target.parts, reasons, strict=True)]
    return Proof(target.label, base.label, tuple(verdicts), ())


def _equal(plan: CutPlan, target: LocatedGguf, base: LocatedGguf, advance: Advance, cache: DigestCache | None) -> bool:
    """Whether one file is the planned one."""
    if plan.size != target.header.file_size:
        return False
    return _is_planned(target.listed or _digest(target, advance), plan, base, advance, cache)


def planned_digests(
    plans: Sequence[CutPlan], base: LocatedGguf, advance: Advance = lambda _count: None, *, pinned: Sequence[str] = ()
) -> list[str]:
    """SHA-256 of the files of a planned cut, which need not exist.

    Raises:
        InputError: another number of digests is pinned than the base has files.
        CheckFailedError: a file of the base has another digest than is pinned.
        UnavailableError: a remote base cannot be reached.
    """
    source = FollowingSource(base.source, require_known_digests(base.source, pins_of(base, pinned)))
    found = [_planned_digest(plan, source, advance) for plan in plans]
    source.finish()
    return found


def _planned_digest(plan: CutPlan, source: Source, advance: Advance) -> str:
    with SideDigest() as digest:
        for block in read_parts(plan.parts, source):
            digest.update(block)
            advance(len(block))
        return digest.hexdigest()


def _is_planned(sha256: str, plan: CutPlan, base: LocatedGguf, advance: Advance, cache: DigestCache | None) -> bool:
    """Whether cutting the base gives a file of this digest: as remembered, or computed now."""
    key = PlannedShard(base.name, plan.digest(base.source).encode(), ())  # which covers header, ranges and the base's file
    if cache is not None and cache.find(key, base.source, "sha256") == sha256:
        advance(plan.size)
        return True
    found = _planned_digest(plan, base.source, advance)
    if cache is not None:
        cache.store(key, base.source, "sha256", found)
    return found == sha256


def _digest(target: LocatedGguf, advance: Advance) -> str:
    ids = ContentIds(target.header.file_size)
    for block in target.source.blocks(target.name, 0, target.header.file_size):
        ids.update(block)
        advance(len(block))
    return ids.sha256


def infer_drop_map(target: LocatedGguf, base: LocatedGguf) -> DropMap:
    """The drop map that leaves the target's routers of the base's: a router has a row for each expert.

    Raises:
        InputError: the two are not of one architecture, or have other layers.
        CheckFailedError: a router's row is none of the base's, or stands in another order.
    """
    ours, theirs = find_experts(base.header), find_experts(target.header)
    if base.header.architecture != target.header.architecture or ours.layers != theirs.layers:
        raise InputError(
            f"{target.label}: {target.header.architecture} with {len(theirs.layers)} layers of experts, the base is "
            f"{base.header.architecture} with {len(ours.layers)}; it is no cut of this base"
        )
    keep = [_kept(layer, _rows(base, ours, layer), _rows(target, theirs, layer)) for layer in ours.layers]
    return drop_map_from_keep(keep, ours.layers, ours.architecture.experts, {})


def _rows(gguf: LocatedGguf, found: GgufExperts, layer: str) -> list[bytes]:
    tensor: GgufTensor = found.routers[layer]
    data = gguf.source.read(gguf.file_of(tensor), tensor.offset, tensor.size)
    size = tensor.size // found.architecture.experts
    return [data[start : start + size] for start in range(0, tensor.size, size)]


def _kept(layer: str, base: list[bytes], target: list[bytes]) -> list[int]:
    """Where the target's rows stand among the base's; of equal rows the first that is free."""
    kept: list[int] = []
    for number, row in enumerate(target):
        try:
            kept.append(base.index(row, kept[-1] + 1 if kept else 0))
        except ValueError:
            where = "stands in another order than" if row in base else "is none of"
            raise CheckFailedError(f"layer {layer}: row {number} of the router {where} the base's") from None
    return kept


def _difference(plan: CutPlan, target: LocatedGguf, base: LocatedGguf, *, look: bool) -> str:
    """Why a file of the target is BAD."""
    if (keys := _different_keys(plan, target, base)) and not look:
        return f"metadata differ: {keys}"
    ours = {each.base.name: (each.base.type.name, each.shape) for each in plan.tensors}
    theirs = {each.name: (each.type.name, each.shape) for each in target.header.tensors}
    if ours != theirs:
        name = next(name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name))
        return f"tensor {name!r} is {_shown(theirs.get(name))}, planned is {_shown(ours.get(name))}"
    if not look:
        return "differs from what cutting the base gives"
    data = _different_data(plan, target, base)
    if keys:
        return f"metadata differ: {keys}; " + (f"and {data}" if data else "tensor data equal")
    return data or "its header or padding differs"


def _honest_reason(plan: CutPlan, target: LocatedGguf) -> str:
    """Why a target may be no cut and yet what it says it is: another type, or a quant of the pruned weights themselves."""
    kind = file_type(target.header)
    if None not in (kind, plan.file_type) and kind != plan.file_type:
        return f"; the target is {kind} and the base's GGUF {plan.file_type}: give the base's of the same type"
    matrix = {key: target.header.value(key) for key in target.header.entries if key.startswith(IMATRIX)}
    if matrix and plan.imatrix:
        why = "both were quantized with an imatrix, which need not be the same one"
    elif matrix or plan.imatrix:
        one, other = ("target", "base's GGUF") if matrix else ("base's GGUF", "target")
        why = f"the {one} was quantized with an imatrix and the {other} without one"
    elif plan.other_types is not None:
        why = plan.other_types
    else:
        return ""
    return f"; {why}, and a quant of the pruned weights is no cut then: {REMAKE}"


def _shown(tensor: tuple[str, tuple[int, ...]] | None) -> str:
    return "missing" if tensor is None else f"{tensor[0]} {list(tensor[1])}"


def _different_keys(plan: CutPlan, target: LocatedGguf, base: LocatedGguf) -> str:
    """Keys whose entries are not as planned."""
    planned = b"".join(read_parts(plan.header, base.source))
    ours = parse_header(io.BytesIO(planned), plan.size, Path("planned")).entries
    theirs = target.header.entries
    wrong = [key for key in {**ours, **theirs} if _entry(planned, ours.get(key)) != _entry_of(target, theirs.get(key))]
    return ", ".join(wrong[:MOST_KEYS])


def _entry(data: bytes, entry: GgufEntry | None) -> bytes | None:
    return None if entry is None else data[entry.start : entry.end]


def _entry_of(target: LocatedGguf, entry: GgufEntry | None) -> bytes | None:
    return None if entry is None else target.source.read(target.name, entry.start, entry.end - entry.start)


def _different_data(plan: CutPlan, target: LocatedGguf, base: LocatedGguf) -> str | None:
    """The first tensor, and expert, whose bytes are not as planned."""
    places = {each.name: each for each in target.header.tensors}
    for tensor in plan.tensors:
        place = places[tensor.base.name]
        theirs = target.source.blocks(target.name, place.offset, place.size)
        position = first_difference(read_parts(tensor.runs, base.source), theirs)
        if position is not None:
            return f"tensor {tensor.base.name!r} differs{_expert(tensor, position)}"
    return None


def _expert(tensor: CutTensor, position: int) -> str:
    if tensor.kept is None:
        return ""
    number = position // (tensor.size // len(tensor.kept))
    return f" in expert {number}, which is expert {tensor.kept[number]} of the base"
