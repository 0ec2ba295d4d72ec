"""Numbers of experts that cannot be, found when a manifest is checked and not after an analysis of days."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from pruner.checkpoint import open_checkpoint
from pruner.drop_map import read_drop_map, require_fits
from pruner.errors import InputError
from pruner.families import Architecture, architecture_of
from pruner.files import path_inside
from pruner.ranking_options import AnyRanking, CoverageRanking
from pruner.sources import LocalSource, Source, read_source_json
from pruner.wording import counted
from release.base import base_folder
from release.base_headers import described_base
from release.documents import place_of_key
from release.manifest import LoadedManifest, Prune

CONFIG = "config.json"


def check_against_base(loaded: LoadedManifest) -> None:
    """Compare a manifest's numbers with the base's config.json, when that is here; nothing is fetched.

    Raises:
        InputError: the base cannot be read, or a number cannot be.
    """
    source = _base_at_hand(loaded) if loaded.content.prune else None
    if source is None or CONFIG not in source.files:
        return
    config, where = read_source_json(source, CONFIG, "the model's config.json"), f"{source.label}/{CONFIG}"
    if not isinstance(config, dict):
        raise InputError(f"{where}: expected a mapping")
    require_possible(loaded, architecture_of(config, where))
    if loaded.local_base is not None and any(name.endswith(".safetensors") for name in source.files):
        _require_fitting_map(loaded, source)


def _require_fitting_map(loaded: LoadedManifest, source: Source) -> None:
    """A pinned map is held against the layers and experts that the base's headers show."""
    prune = loaded.content.prune
    pinned = prune.drop_map if prune else None
    if prune is None or pinned is None or not path_inside(loaded.root, pinned.path).exists():
        return
    base, drop_map = open_checkpoint(source), read_drop_map(loaded.file(pinned))
    require_fits(drop_map, base.architecture, base.layers, pinned.path)
    require_count(base.architecture.experts - len(next(iter(drop_map.drop.values()))), prune, base.architecture)


def require_count(kept: int, prune: Prune, architecture: Architecture) -> None:
    """Raise InputError when a drop map that fits the base keeps another number of experts per layer than the manifest says."""
    if kept != prune.experts:
        swapped = "; a map names the experts to drop" if kept + prune.experts == architecture.experts else ""
        where = prune.drop_map.path if prune.drop_map else "the ranking"
        raise InputError(
            f"{where}: the drop map keeps {counted(kept, 'expert')} per layer, the manifest says {prune.experts}{swapped}"
        )


def _base_at_hand(loaded: LoadedManifest) -> Source | None:
    """The base as a folder, as the description of its headers, or as far as the Hub's cache has it."""
    base = loaded.content.base
    if loaded.local_base is not None:
        return LocalSource(base_folder(loaded))
    if base.headers is not None:
        return described_base(loaded.file(base.headers))
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(str(base.repo), CONFIG, revision=base.revision)
    return LocalSource(Path(cached).parent) if isinstance(cached, str) else None


def require_possible(loaded: LoadedManifest, architecture: Architecture, layers: Collection[str] | None = None) -> None:
    """Check that the base has the experts that a manifest keeps, pins and protects.

    Args:
        loaded: the manifest.
        architecture: of the base.
        layers: the base's layers with experts, when its headers were read; else any of its layers may have some.

    Raises:
        InputError: with the place of the number, and what the base has.
    """
    prune = loaded.content.prune
    if prune is None:
        return
    experts, where = prune.experts, place_of_key(loaded.path, "prune.experts")
    if experts >= architecture.experts:
        raise InputError(f"{where} is {experts}, the base has {architecture.experts}; nothing to remove")
    if experts < architecture.top_k:
        raise InputError(f"{where} is {experts}, the router picks {architecture.top_k} for each token")
    if prune.analysis is None:
        return  # a pinned map is not ranked
    known = {str(layer) for layer in range(architecture.layers)} if layers is None else set(layers)
    if problem := _impossible(prune.ranking, experts, architecture, known):
        key, what = problem
        raise InputError(f"{place_of_key(loaded.path, f'prune.ranking.{key}')}: {what}")


def _impossible(ranking: AnyRanking, keep: int, architecture: Architecture, layers: Collection[str]) -> tuple[str, str] | None:
    """The key of a ranking's parameter that the base cannot fulfil, and why."""
    experts = architecture.experts
    if isinstance(ranking, CoverageRanking) and ranking.protect > experts:
        return "protect", f"{ranking.protect} experts cannot be protected, a layer has {experts}; lower it"
    if ranking.groups is not None and architecture.groups is None:
        return "groups", "the base's router has no expert groups; remove the key"
    counts = ranking.floors.experts if ranking.floors else {}
    floors: Mapping[int, int] = counts if isinstance(counts, dict) else {}
    for key, numbers in (("pins", ranking.pins or {}), ("floors", floors)):
        if unknown := sorted(layer for layer in numbers if str(layer) not in layers):
            return key, f"the base has no MoE layer {unknown[0]}"
    for layer, pinned in (ranking.pins or {}).items():
        if bad := [expert for expert in pinned if expert >= experts]:
            return "pins", f"layer {layer} has experts 0 to {experts - 1}, not {bad[0]}"
        if len(set(pinned)) > keep:
            return "pins", f"layer {layer} pins {len(set(pinned))} experts, prune.experts keeps {keep}; lower them"
    most = max(floors.values(), default=0) if isinstance(counts, dict) else counts
    return ("floors", f"asks for {most} experts, prune.experts keeps {keep}; lower it") if most > keep else None
