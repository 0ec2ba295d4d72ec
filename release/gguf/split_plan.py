"""A planned cut in shards: the files that llama-gguf-split would make of the whole one, known before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

from release.gguf.cut_plan import CutPlan, CutTensor
from release.gguf.packing import packed_entry
from release.gguf.reader import DEFAULT_ALIGNMENT
from release.gguf.shards import COUNT_KEY, MEGABYTE, NUMBER_KEY, TENSORS_KEY

VERSION = 3
"""Of the format: what llama-gguf-split writes, whatever it read."""


def split_plan(plan: CutPlan, max_bytes: int | None) -> tuple[CutPlan, ...]:
    """The files of a planned cut: itself, or its shards when it holds more than `max_bytes` of tensor data.

    The bytes are those of `llama-gguf-split --split-max-size` (`split_strategy` of its source), but for two files that it does
    not make well: a first tensor that is larger than a shard, here a shard of its own as any other, and an alignment other than
    the default, here kept in every shard.

    Args:
        plan: of one file.
        max_bytes: cap of a shard's tensor data, rounded down to whole megabytes; a single larger tensor is a shard of its own.
    """
    if max_bytes is None or sum(tensor.size for tensor in plan.tensors) <= max_bytes:
        return (plan,)
    cap = max(1, max_bytes // MEGABYTE) * MEGABYTE
    return split_after(plan, [len(group) for group in _groups(plan, cap)])


def split_after(plan: CutPlan, counts: Sequence[int]) -> tuple[CutPlan, ...]:
    """The shards of a planned cut that hold so many tensors each; the plan itself when that is one."""
    if len(counts) == 1:
        return (plan,)
    ends = list(accumulate(counts))
    return tuple(
        replace(
            plan,
            version=VERSION,
            entries=(*(_own_entries(plan) if number else plan.entries), *_numbered(plan, number, len(counts))),
            tensors=plan.tensors[end - count : end],
        )
        for number, (end, count) in enumerate(zip(ends, counts, strict=True))
    )


def _own_entries(plan: CutPlan) -> Iterator[bytes]:
    """What every shard says itself; all else stands in the first one."""
    if plan.alignment != DEFAULT_ALIGNMENT:
        yield packed_entry("general.alignment", "u32", plan.alignment)


def _numbered(plan: CutPlan, number: int, count: int) -> Iterator[bytes]:
    yield packed_entry(NUMBER_KEY, "u16", number)
    yield packed_entry(TENSORS_KEY, "i32", len(plan.tensors))
    yield packed_entry(COUNT_KEY, "u16", count)


def _groups(plan: CutPlan, cap: int) -> Iterator[list[CutTensor]]:
    """The tensors of each shard: as many as fit, and at least one."""
    group: list[CutTensor] = []
    size = 0
    for tensor in plan.tensors:
        padded = tensor.size + -tensor.size % plan.alignment
        if group and size + padded > cap:
            yield group
            group, size = [], 0
        group.append(tensor)
        size += padded
    yield group
