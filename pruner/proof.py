"""Proofs: a published variant against its base, by the digests of the shards that would be built.  Nothing is written.

A planned shard is a header and byte ranges of the base, so its digest is known without building it.  The target tells how it
was made (drop map, shards, metadata); a target that tells it wrongly differs from its own plan.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial

from pruner.build import shard_data
from pruner.checkpoint import open_checkpoint
from pruner.digest_cache import DigestCache
from pruner.locate import Comparison
from pruner.plan import Plan, PlannedShard
from pruner.progress import SILENT, Advance, Progress
from pruner.sources import Source, SourceFile, described, digested
from pruner.strangers import taken_for
from pruner.target_layout import planned, read_layout
from pruner.workers import executor_or_threads

PLANTED = "no build from the base makes it, and a loader would take it for the model's"


@dataclass(frozen=True)
class Verdict:
    """What was found of one file; `reason` says why it is BAD.

    `rebuilt` is the SHA-256 of the shard that the base and the drop map make, where it was computed.
    """

    name: str
    size: int
    reason: str | None = None
    rebuilt: str | None = None

    @property
    def good(self) -> bool:
        """Whether the file is what the base and the drop map make."""
        return self.reason is None


@dataclass(frozen=True)
class Proof:
    """A verdict for every planned file and every one that a loader would read unplanned.

    `unplanned` names what else is there and was not looked at: cards, licenses, and whole folders.
    """

    target: str
    base: str
    verdicts: tuple[Verdict, ...]
    unplanned: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether every file is GOOD."""
        return all(verdict.good for verdict in self.verdicts)


@dataclass(frozen=True)
class Digest:
    """SHA-256 or, for a file that git holds itself, git's SHA-1: whichever the target's listing has."""

    kind: str
    value: str


def open_comparison(target: Source, base: Source) -> tuple[Plan, Comparison]:
    """Read what the target says of itself and the headers of both.

    Raises:
        InputError: the target does not say how it was made, or names experts that the base does not have.
        UnavailableError: one of the two cannot be reached.
    """
    layout = read_layout(target)
    checkpoint = open_checkpoint(base)
    return planned(layout, checkpoint, target), Comparison(target, checkpoint, layout.drop_map)


def prove(
    target: Source,
    base: Source,
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    progress: Progress = SILENT,
    locate: bool | None = None,
    cache: DigestCache | None = None,
    known: Collection[str] = (),
) -> Proof:
    """Compare every planned file with the target's, by digest.

    Of a target on the Hub nothing is read but headers and small files; its digests are those that the Hub lists.  The base is
    read once.  `locate` reads a BAD shard up to the first byte that differs, to name tensor and expert (default: when the
    target is local).  `cache` remembers digests that were computed here, so that a killed proof goes on.  `known` are files
    that the target has beside its weights for reasons of its own.  Memory: some blocks of 1 MiB per worker.

    Raises:
        InputError, UnavailableError: see `open_comparison`.
    """
    plan, comparison = open_comparison(target, base)
    with executor_or_threads(executor, workers) as (pool, shared):
        compared = _compare_shards(plan, target, base, pool, progress, shared=shared, cache=cache)
    look = target.gap == 0 if locate is None else locate
    verdicts = [
        _shard_verdict(shard, compared.get(shard.name), lambda shard: _reason(shard, comparison, look=look))
        for shard in plan.shards
    ]
    return proof_of(plan, target, base, verdicts, known)


def _compare_shards(
    plan: Plan, target: Source, base: Source, pool: Executor, progress: Progress, *, shared: bool, cache: DigestCache | None
) -> dict[str, tuple[Digest, bool]]:
    """The planned digest and whether the target has it, by name of the shards that have the planned size."""
    files = target.files
    comparable = [shard for shard in plan.shards if shard.name in files and files[shard.name].size == shard.size]
    unlisted = [shard for shard in comparable if listed_digest(files[shard.name]) is None]
    total = sum(shard.size for shard in comparable) + sum(shard.size for shard in unlisted)
    with progress.task("digesting planned shards", total, "bytes") as advance:
        report = advance if shared else None

        def submit(function: Callable[..., Digest], shard: PlannedShard, *words: object) -> Future[Digest]:
            future = pool.submit(function, *words, report)
            if not shared:
                future.add_done_callback(lambda _done: advance(shard.size))
            return future

        pairs = {}
        for shard in sorted(comparable, key=lambda shard: shard.size, reverse=True):  # the last work to end is short
            known = listed_digest(files[shard.name])
            kind = known.kind if known else "sha256"
            ours: Digest | Future[Digest]
            if known is not None and _remembered(cache, shard, base, kind) == known:  # of another digest, look again
                ours = known
                advance(shard.size)
            else:
                ours = submit(planned_digest, shard, shard, base, kind)
                ours.add_done_callback(partial(_remember, cache, shard, base))
            theirs = known or submit(file_digest, shard, target, shard.name, shard.size)
            pairs[shard.name] = (ours, theirs)
        done = {name: (_result(ours), _result(theirs)) for name, (ours, theirs) in pairs.items()}
    return {name: (ours, ours == theirs) for name, (ours, theirs) in done.items()}


def _result(digest: Digest | Future[Digest]) -> Digest:
    return digest if isinstance(digest, Digest) else digest.result()


def _remembered(cache: DigestCache | None, shard: PlannedShard, base: Source, kind: str) -> Digest | None:
    value = cache.find(shard, base, kind) if cache is not None else None
    return Digest(kind, value) if value is not None else None


def _remember(cache: DigestCache | None, shard: PlannedShard, base: Source, done: Future[Digest]) -> None:
    if cache is not None and not done.cancelled() and done.exception() is None:
        cache.store(shard, base, done.result().kind, done.result().value)


def _shard_verdict(shard: PlannedShard, compared: tuple[Digest, bool] | None, reason: Callable[[PlannedShard], str]) -> Verdict:
    ours, equal = compared or (None, False)
    rebuilt = ours.value if ours and ours.kind == "sha256" else None
    return Verdict(shard.name, shard.size, None if equal else reason(shard), rebuilt)


def listed_digest(file: SourceFile) -> Digest | None:
    """The digest that is known without reading."""
    if file.sha256 is not None:
        return Digest("sha256", file.sha256)
    return Digest("git", file.blob_id) if file.blob_id is not None else None


def planned_digest(shard: PlannedShard, base: Source, kind: str = "sha256", advance: Advance | None = None) -> Digest:
    """Digest of a shard that need not exist, from the ranges of the base."""
    digest = hashlib.sha256()
    if kind == "git":
        digest = hashlib.sha1(b"blob %d\0" % shard.size, usedforsecurity=False)
    digest.update(shard.header)
    for block in shard_data(shard, base):
        digest.update(block)
        if advance:
            advance(len(block))
    return Digest(kind, digest.hexdigest())


def file_digest(source: Source, name: str, size: int, advance: Advance | None = None) -> Digest:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    for block in source.blocks(name, 0, size):
        digest.update(block)
        if advance:
            advance(len(block))
    return Digest("sha256", digest.hexdigest())


def _reason(shard: PlannedShard, comparison: Comparison, *, look: bool) -> str:
    if shard.name not in comparison.target.files:
        return "is missing"
    return comparison.explain(shard, data=look)


def proof_of(plan: Plan, target: Source, base: Source, shards: Iterable[Verdict], known: Collection[str] = ()) -> Proof:
    """The proof of verdicts on shards, and of all that stands beside them: small files, and files that are not planned.

    Of a target on the Hub nothing is read: its listed digests are compared.
    """
    names = {*(shard.name for shard in plan.shards), *plan.texts, *plan.copies}
    unplanned = [name for name in target.files if name not in names]
    taken = {name: what for name in unplanned if name not in known and (what := taken_for(name))}
    planted = [Verdict(name, target.files[name].size, f"{PLANTED} {what}") for name, what in taken.items()]
    others = [*(name for name in unplanned if name not in taken), *(f"{name}/" for name in target.folders)]
    verdicts = (*shards, *_small_files(plan, target, base), *planted)
    return Proof(target.label, base.label, verdicts, tuple(others))


def _small_files(plan: Plan, target: Source, base: Source) -> Iterator[Verdict]:
    """Verdicts of written files and of copied ones."""
    for name, content in plan.texts.items():
        ours = described(name, content)
        yield _verdict(ours, target, "differs from what this tool writes for the base and the drop map")
    for name in plan.copies:
        file, found = base.files[name], target.files.get(name)
        if found is not None and (listed_digest(file) or 0) == listed_digest(found):
            yield Verdict(name, file.size)
        else:
            yield _verdict(digested(base, file), target, "differs from the base's")


def _verdict(ours: SourceFile, target: Source, reason: str) -> Verdict:
    """`ours` has both digests, and the target's listing one or none."""
    theirs = target.files.get(ours.name)
    if theirs is None:
        return Verdict(ours.name, ours.size, "is missing")
    if theirs.size == ours.size and listed_digest(theirs) is None:
        theirs = digested(target, theirs)
    same = theirs.sha256 == ours.sha256 if theirs.sha256 is not None else theirs.blob_id == ours.blob_id
    return Verdict(ours.name, ours.size, None if same and theirs.size == ours.size else reason)
