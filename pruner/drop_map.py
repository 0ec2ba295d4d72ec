"""Drop maps: which experts are removed from each layer.

Three forms are read: our envelope, the bare `{"0": [ids], …}` that published tools write, and the expert_drop_metadata.json of
pruned checkpoints.  Equal maps have equal digests, whatever their form, indentation or the order of their ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pruner.errors import InputError
from pruner.expert_groups import surviving_groups
from pruner.families import MOST_EXPERTS, MTP, Architecture, is_layer_key, layer_order
from pruner.files import digest_of, read_json, require_canonical
from pruner.wording import counted

FORMAT = "moe-release/drop-map/v1"


@dataclass(frozen=True)
class DropMap:
    """Dropped expert ids per layer, ascending.  `experts` is the base's count per layer; None if a bare map did not say."""

    drop: Mapping[str, tuple[int, ...]]
    experts: int | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form of the dropped ids."""
        return digest_of({layer: list(ids) for layer, ids in self.drop.items()})

    def keep(self, layer: str, experts: int) -> tuple[int, ...]:
        """Kept expert ids of a layer, ascending."""
        dropped = set(self.drop[layer])
        return tuple(expert for expert in range(experts) if expert not in dropped)

    def kept_count(self, experts: int) -> int:
        """Experts that stay in each layer (the same number in all)."""
        return experts - len(next(iter(self.drop.values())))

    def first_difference(self, other: DropMap) -> str | None:
        """The first layer in which two maps drop other experts, or that one of them does not have."""
        return next((layer for layer in (*self.drop, *other.drop) if self.drop.get(layer) != other.drop.get(layer)), None)

    def envelope(self, experts: int) -> dict[str, Any]:
        """The map as JSON with keep and drop per layer, its digest and where it came from."""
        layers = {layer: {"keep": list(self.keep(layer, experts)), "drop": list(ids)} for layer, ids in self.drop.items()}
        return {"format": FORMAT, "experts": experts, "layers": layers, "digest": self.digest, **self.provenance}


def drop_map_from_keep(
    keep: Sequence[Sequence[int]], layers: Sequence[str], experts: int, provenance: Mapping[str, Any]
) -> DropMap:
    """The map that keeps `keep[i]` of the experts of `layers[i]`."""
    drop = {layer: tuple(sorted(set(range(experts)) - set(kept))) for layer, kept in zip(layers, keep, strict=True)}
    return DropMap(drop, experts, provenance)


def with_mtp_of_last(drop_map: DropMap, layers: Sequence[str]) -> DropMap:
    """The map with each multi-token prediction block among `layers` dropping what the last layer of the map drops.

    Such a block is no part of the forward passes that rank experts; it continues from the last layer's hidden states.
    """
    last = list(drop_map.drop.values())[-1]
    return replace(drop_map, drop={**drop_map.drop, **{layer: last for layer in layers if layer.startswith(MTP)}})


LARGEST = 16 << 20
"""Bytes of a file that is still read as a drop map; those of a hundred layers of a thousand experts take one."""


def read_drop_map(path: Path) -> DropMap:
    """Read a drop map in any of its forms.

    Raises:
        InputError: the file is no drop map, an id is no whole number, an id stands twice, or the envelope contradicts itself.
    """
    return parse_drop_map(read_json(path, "the drop map", LARGEST), str(path))


def parse_drop_map(content: Any, path: str) -> DropMap:
    """A drop map in any of its forms from its JSON; `path` names it in errors.

    Raises:
        InputError: see `read_drop_map`.
    """
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path}: a drop map is a mapping of layers to lists of expert ids")
    if "per_layer_drop" in content:
        return _published(path, content)
    if "format" not in content:
        return DropMap(_layers(path, content))
    if content["format"] != FORMAT:
        raise InputError(f"{path}: unknown drop map format {content['format']!r}; this version reads {FORMAT}")
    layers = content.get("layers")
    if not isinstance(layers, dict) or not all(isinstance(layer, dict) for layer in layers.values()):
        raise InputError(f"{path}: 'layers' must map each layer to keep and drop")
    experts = content.get("experts")
    if type(experts) is not int or not 0 < experts <= MOST_EXPERTS:
        raise InputError(f"{path}: 'experts' must be the number of experts per layer of the base")
    provenance = {key: value for key, value in content.items() if key not in {"format", "experts", "layers", "digest"}}
    require_canonical(provenance, path)
    result = DropMap(_layers(path, {name: layer.get("drop") for name, layer in layers.items()}), experts, provenance)
    _require_consistent(path, result, content, experts)
    return result


def _published(path: str, content: Mapping[str, Any]) -> DropMap:
    """The map in the metadata that pruned checkpoints carry, ours and upstream's; of its origin, the base and the ranking.

    Nothing else is taken over: upstream's name paths of the machine that made them.
    """
    experts, drop, keep = (content.get(name) for name in ("original_experts", "per_layer_drop", "per_layer_keep"))
    if type(experts) is not int or not 0 < experts <= MOST_EXPERTS:
        raise InputError(f"{path}: 'original_experts' must be the number of experts per layer of the base")
    if not isinstance(drop, dict) or not drop or not isinstance(keep, dict):
        raise InputError(f"{path}: 'per_layer_drop' and 'per_layer_keep' must map each layer to a list of expert ids")
    base, method = content.get("base_model"), content.get("method")
    named = {"name": base} if isinstance(base, str) else base
    known = {"base_model": named, "ranking": {"method": method} if isinstance(method, str) else method}
    provenance = {key: value for key, value in known.items() if isinstance(value, dict)}
    require_canonical(provenance, path)
    result = DropMap(_layers(path, drop), experts, provenance)
    layers = {layer: {"keep": keep.get(layer)} for layer in result.drop}
    _require_consistent(path, result, {"layers": layers, "digest": content.get("drop_map_digest", result.digest)}, experts)
    return result


def _layers(path: str, content: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    result = {}
    for layer, ids in content.items():
        if not is_layer_key(layer):
            raise InputError(f"{path}: unknown key {layer!r}; layers are numbers in quotes, or {MTP!r}")
        if not isinstance(ids, list) or not all(type(expert) is int for expert in ids):
            raise InputError(f"{path}: layer {layer}: expected a list of expert ids")
        if len(set(ids)) != len(ids):
            twice = Counter(ids).most_common(1)[0][0]
            raise InputError(f"{path}: layer {layer}: expert {twice} stands twice")
        result[layer] = tuple(sorted(ids))
    return dict(sorted(result.items(), key=lambda item: layer_order(item[0])))


def _require_consistent(path: str, drop_map: DropMap, content: Mapping[str, Any], experts: int) -> None:
    for layer in drop_map.drop:
        if content["layers"][layer].get("keep") != list(drop_map.keep(layer, experts)):
            raise InputError(f"{path}: layer {layer}: keep and drop do not add up to {experts} experts")
    if content.get("digest") != drop_map.digest:
        raise InputError(f"{path}: the digest inside the map is not the digest of its ids; was it edited by hand?")


def require_fits(drop_map: DropMap, architecture: Architecture, layers: Sequence[str], where: str) -> None:
    """Check that a map can be applied to a checkpoint with `layers` Mixture-of-Experts layers.

    Raises:
        InputError: other layers, another expert count, ids out of range, different counts per layer (the formats hold one
            number), fewer experts left than the router picks, or expert groups torn apart.
    """
    experts = architecture.experts
    if drop_map.experts not in (None, experts):
        raise InputError(
            f"{where}: made for {drop_map.experts} experts per layer, the base has {experts}; it is another model's map"
        )
    _require_same_layers(drop_map, layers, where)
    for layer, ids in drop_map.drop.items():
        if bad := [expert for expert in ids if not 0 <= expert < experts]:
            raise InputError(
                f"{where}: layer {layer}: expert {bad[0]} is out of range, the base has experts 0 to {experts - 1}"
            )
    counts = {len(ids) for ids in drop_map.drop.values()}
    if len(counts) > 1:
        raise InputError(
            f"{where}: layers drop between {min(counts)} and {max(counts)} experts; config.json holds one number for all"
        )
    if (kept := experts - counts.pop()) < architecture.top_k:
        raise InputError(f"{where}: keeps {counted(kept, 'expert')} per layer, the router picks {architecture.top_k}")
    surviving_groups(drop_map.drop, architecture, where)


def _require_same_layers(drop_map: DropMap, layers: Sequence[str], where: str) -> None:
    """Every layer with experts, the multi-token prediction block too: config.json holds one expert count for all."""
    counts = f"{counted(len(drop_map.drop), 'layer')}, the base has {len(layers)} with experts"
    if missing := sorted(set(layers) - set(drop_map.drop), key=layer_order):
        say = "; the multi-token prediction block has experts of its own, say which to drop (a ranking: mtp: same_as_last)"
        advice = say if MTP in missing[0] else ""
        raise InputError(f"{where}: {counts}; layer {missing[0]} is missing{advice}")
    if unknown := sorted(set(drop_map.drop) - set(layers), key=layer_order):
        advice = "; was the multi-token prediction block lost when the base was saved again?" if MTP in unknown[0] else ""
        raise InputError(f"{where}: {counts}; it has no layer {unknown[0]}{advice}")
