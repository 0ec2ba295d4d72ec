"""Spot checks: random blocks of a published variant against its base, for when reading everything is too much."""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

from pruner.errors import InputError
from pruner.locate import Comparison, first_difference
from pruner.plan import ByteRange, Plan, PlannedShard
from pruner.progress import SILENT, Progress
from pruner.proof import Proof, Verdict, open_comparison, proof_of
from pruner.sources import Source, read_ranges
from pruner.workers import executor_or_threads

SPOT_BLOCK = 64 << 10
"""Bytes of a block: small beside an expert's row, large beside the cost of a request."""
FRACTIONS = (0.1, 0.01, 0.001)


@dataclass(frozen=True)
class SpotCheck:
    """A proof of a sample.  `blocks` were drawn with equal chance and replacement out of `of_blocks`, `drawn` in each shard.

    Only the shards that `drawn` names are sampled; every other verdict of the proof is of a whole file.
    """

    proof: Proof
    drawn: Mapping[str, int]
    blocks: int
    of_blocks: int
    seed: int

    def miss_probability(self, fraction: float) -> float:
        """Chance that no drawn block is tampered when `fraction` of all blocks are: (1 - f)^N."""
        return float((1 - fraction) ** self.blocks)


def spot_check(
    target: Source,
    base: Source,
    blocks: int,
    *,
    seed: int,
    executor: Executor | None = None,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> SpotCheck:
    """Compare the headers of all shards, `blocks` random blocks of their data, and as `prove` does all that stands beside them.

    So no index can lead to a shard that was not sampled, and no config or tokenizer is another.  The blocks depend on nothing
    but `seed` and the layout.  Whoever may know the seed beforehand may leave them untouched: take one that was not announced.

    Raises:
        InputError, UnavailableError: see `open_comparison`.
    """
    plan, comparison = open_comparison(target, base)
    bad = {shard.name: reason for shard in plan.shards if (reason := _visible(shard, comparison)) is not None}
    total = sum(_count(shard) for shard in plan.shards)
    if not total:
        raise InputError(f"{target.label}: there are no tensor data to draw blocks from")
    drawn = sorted(_place(plan, number) for number in _draw(total, blocks, seed))
    to_read = [(index, number) for index, number in drawn if plan.shards[index].name not in bad]
    with executor_or_threads(executor, workers) as (pool, _), progress.task("comparing blocks", len(to_read)) as advance:
        pending = [
            (index, number, pool.submit(compare_block, plan.shards[index], number, comparison.base.source, target))
            for index, number in to_read
        ]
        for index, number, future in pending:
            offset = future.result()
            shard = plan.shards[index]
            if offset is not None and shard.name not in bad:
                bad[shard.name] = comparison.place(shard, number * SPOT_BLOCK + offset)
            advance(1)
    verdicts = [Verdict(shard.name, shard.size, bad.get(shard.name)) for shard in plan.shards]
    counts = Counter(plan.shards[index].name for index, _ in drawn)
    found = {shard.name: counts[shard.name] for shard in plan.shards}
    return SpotCheck(proof_of(plan, target, base, verdicts), found, blocks, total, seed)


def _visible(shard: PlannedShard, comparison: Comparison) -> str | None:
    """What is wrong with a shard before its data are read."""
    file = comparison.target.files.get(shard.name)
    if file is None:
        return "is missing"
    header = comparison.header_difference(shard)
    wrong_size = f"has {file.size:,} bytes, the plan {shard.size:,}" if file.size != shard.size else None
    return header or wrong_size


def _count(shard: PlannedShard) -> int:
    """Blocks of a shard's tensor data; the last may be short."""
    return -(-(shard.size - len(shard.header)) // SPOT_BLOCK)


def _draw(total: int, blocks: int, seed: int) -> Iterator[int]:
    """Block numbers from the SHA-256 of "seed/draw", because a library's generator may change with its version."""
    for draw in range(blocks):
        yield int.from_bytes(hashlib.sha256(f"{seed}/{draw}".encode()).digest(), "big") % total


def _place(plan: Plan, number: int) -> tuple[int, int]:
    """Index of the shard that holds a block, and the block's number there."""
    ends = list(itertools.accumulate(_count(shard) for shard in plan.shards))
    index = bisect.bisect_right(ends, number)
    return index, number - (ends[index - 1] if index else 0)


def compare_block(shard: PlannedShard, number: int, base: Source, target: Source) -> int | None:
    """Offset in the block of the first byte that differs, None when it is as planned."""
    start = number * SPOT_BLOCK
    length = min(SPOT_BLOCK, shard.size - len(shard.header) - start)
    planned = read_ranges(base, _cut(shard, start, length))
    return first_difference(planned, target.blocks(shard.name, len(shard.header) + start, length))


def _cut(shard: PlannedShard, start: int, length: int) -> Iterator[ByteRange]:
    """The ranges of the base that hold `length` bytes of the shard's data from `start`."""
    position = 0
    for part in (part for tensor in shard.tensors for part in tensor.ranges):
        first, last = max(start, position), min(start + length, position + part.length)
        if first < last:
            yield ByteRange(part.file, part.start + first - position, last - first)
        position += part.length
