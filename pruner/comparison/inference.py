"""`moe-release infer`: which experts a published prune kept of its base, and proof that all else is the base's bytes."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pruner.base_identity import identity_of
from pruner.checkpoint import METADATA, Checkpoint, open_checkpoint
from pruner.comparison.expert_layout import laid_out_alike
from pruner.comparison.experts import Layers, expert_count, layer_parts
from pruner.comparison.kept import KeptLayer, LayerSide, match_kept
from pruner.comparison.layers import kept_experts
from pruner.comparison.prune_proof import PruneProof, prove_prune
from pruner.comparison.sides import Side, open_side
from pruner.drop_map import DropMap
from pruner.errors import InputError
from pruner.progress import SILENT, Progress
from pruner.sources import Source, open_source
from pruner.workers import executor_or_threads


@dataclass(frozen=True)
class Inference:
    """What was found about a prune.

    `claim` says whether the target's own expert_drop_metadata.json names the same experts, None if it has none; `proof` is None
    when it was not asked for.
    """

    target: str
    base: str
    experts: int
    layers: tuple[KeptLayer, ...]
    drop_map: DropMap
    claim: str | None
    proof: PruneProof | None

    @property
    def exact(self) -> bool:
        """Whether every router row of the target is one of the base's."""
        return all(layer.exact for layer in self.layers)

    @property
    def order_kept(self) -> bool:
        """Whether experts stand in the base's order in all layers."""
        return all(layer.order_kept for layer in self.layers)

    @property
    def holds(self) -> bool:
        """Whether all that was looked at is the base's bytes."""
        return self.exact and (self.proof is None or self.proof.holds)

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        if not self.exact:
            count = sum(len(layer.nearest) for layer in self.layers)
            rows = "1 router row is" if count == 1 else f"{count} router rows are"
            return f"not byte-identical: {rows} none of the base's; the map holds the nearest"
        moved = "" if self.order_kept else ", in another order"
        if self.proof is None:
            return f"every router row is one of the base's{moved}; not proved: tensors were not compared"
        if self.proof.impossible is not None:
            return f"every router row is one of the base's{moved}; not proved: {self.proof.impossible}"
        if not self.proof.holds:
            count = len(self.proof.differences)
            tensors = "1 tensor is" if count == 1 else f"{count} tensors are"
            same = " (the same values in another dtype)" if self.proof.same_values else ""
            return f"every router row is one of the base's{moved}, but {tensors} not{same}"
        return f"proved: every tensor is the base's bytes without the dropped experts{moved}"


def infer(
    target: str | Path | Source,
    base: str | Path | Source,
    *,
    prove: bool = True,
    executor: Executor | None = None,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> Inference:
    """Find the drop map of `target`, a prune of `base` whose own metadata is not read, and prove it.

    Both are folders, `hf://org/name@revision` or sources.  Names may differ before `layers.N.`, and packaging may differ in any
    way.  Without `prove` only headers and router rows are read.

    Raises:
        InputError: a side is damaged, its experts are not known, or `target` cannot be a prune of `base`.
        CheckFailedError: the router rows are those of another model.
        UnavailableError: a remote side cannot be reached.
    """
    checkpoint = open_checkpoint(open_source(base) if isinstance(base, str | Path) else base)
    side = open_side(target)
    architecture = checkpoint.architecture
    if alike := laid_out_alike(side.tensors, checkpoint.tensors, architecture):
        side, checkpoint = replace(side, tensors=alike[0]), replace(checkpoint, tensors=alike[1])
    label = checkpoint.source.label
    parts = layer_parts(side.tensors, architecture), layer_parts(checkpoint.tensors, architecture)
    _require_prune(side.label, label, parts, checkpoint.layers)
    with executor_or_threads(executor, workers) as (pool, shared):
        layers = _match_layers(side, checkpoint, parts, pool, progress)
        drop = {layer.layer: tuple(sorted(set(range(architecture.experts)) - set(layer.keep))) for layer in layers}
        proof = prove_prune(side, checkpoint, layers, DropMap(drop), pool, progress, shared=shared) if prove else None
    drop_map = DropMap(drop, architecture.experts)
    result = Inference(side.label, label, architecture.experts, layers, drop_map, _claim(side, layers), proof)
    return replace(result, drop_map=replace(result.drop_map, provenance=_provenance(result, checkpoint)))


def _require_prune(target: str, base: str, parts: tuple[Layers, Layers], layers: tuple[str, ...]) -> None:
    if set(parts[0]) != set(layers):
        raise InputError(
            f"{target}: {len(parts[0])} layers with experts of a known layout, {base} has {len(layers)}: no prune of it"
        )
    counts = [{layer: expert_count(side[layer]) for layer in layers} for side in parts]
    if counts[0] == counts[1]:
        raise InputError(
            f"{target}: has all {max(counts[0].values())} experts of {base}: no prune; compare them with `moe-release diff`"
        )


def _match_layers(
    side: Side, checkpoint: Checkpoint, parts: tuple[Layers, Layers], pool: Executor, progress: Progress
) -> tuple[KeptLayer, ...]:
    with progress.task("matching router rows", len(checkpoint.layers)) as advance:
        pending = []
        for layer in checkpoint.layers:
            sides = (
                LayerSide(parts[0][layer], side.source, side.label),
                LayerSide(parts[1][layer], checkpoint.source, checkpoint.source.label),
            )
            pending.append(pool.submit(match_kept, layer, *sides))
        results = []
        for future in pending:
            results.append(future.result())
            advance(1)
    return tuple(results)


def _claim(side: Side, layers: tuple[KeptLayer, ...]) -> str | None:
    """What the target says of itself, compared with what was found; it is not used to find anything."""
    claimed = kept_experts(side)
    if not claimed:
        return None
    wrong = [layer.layer for layer in layers if claimed.get(layer.layer) != layer.keep]
    return f"{METADATA} says otherwise of layer {', '.join(wrong)}" if wrong else f"{METADATA} says the same"


def _provenance(result: Inference, checkpoint: Checkpoint) -> dict[str, Any]:
    """What the written map says of its origin: models by name, never a path."""
    shown = identity_of(checkpoint.source)
    named = {"name": shown.name or checkpoint.source.label}
    return {
        "base_model": {**named, "revision": shown.revision} if shown.revision else named,
        "ranking": {"method": "inferred"},
        "inferred_from": {
            "target": result.target,
            "match": "exact" if result.exact else "nearest",
            "order_kept": result.order_kept,
            "proved": result.proof is not None and result.proof.holds and result.exact,
        },
    }
