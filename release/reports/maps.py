"""`moe-release map`: what a drop map drops, how two maps differ, and maps as pictures and as bare JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pruner.drop_map import DropMap
from pruner.errors import InputError, printable
from pruner.files import canonical_json, write_atomic
from pruner.plan import runs_of
from pruner.wording import counted, every
from release.card.pictures.canvas import Form

PICTURES = (".svg", ".png")
COUNTS = ("first", "second", "both", "only_first", "only_second")


def describe(drop_map: DropMap, experts: int | None) -> dict[str, Any]:
    """Counts of one map.

    Args:
        drop_map: what to describe.
        experts: experts per layer of the base, None when nobody said.
    """
    drops = {layer: len(ids) for layer, ids in drop_map.drop.items()}
    return {
        "form": "bare" if drop_map.experts is None else "envelope",
        "digest": drop_map.digest,
        "experts": experts,
        "layers": len(drops),
        "drops": sum(drops.values()),
        "drops_per_layer": drops,
        "drop": {layer: list(ids) for layer, ids in drop_map.drop.items()},
        "provenance": dict(drop_map.provenance),
    }


def description_text(name: str, described: Mapping[str, Any]) -> str:
    """The counts for a person."""
    counts = sorted(set(described["drops_per_layer"].values()))
    spread = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    experts = described["experts"]
    of = f" of {experts}" if experts is not None else ""
    kept = f", {experts - counts[0]} are kept" if experts is not None and len(counts) == 1 else ""
    where = f"in each of {counted(described['layers'], 'layer')}"
    lines = [
        f"{name}: {spread}{of} experts are dropped {where}{kept} ({counted(described['drops'], 'drop')} in all)",
        f"form    {described['form']}",
        f"digest  {described['digest']}",
    ]
    lines += [f"{key}: {json.dumps(value, sort_keys=True)}" for key, value in sorted(described["provenance"].items())]
    lines += [f"layer {layer:>4}: {len(ids)} dropped{_ids(ids)}" for layer, ids in described["drop"].items()]
    return "\n".join(map(printable, lines))


def _ids(ids: Sequence[int]) -> str:
    """`: 0, 4-6` of the experts 0, 4, 5 and 6; nothing of none."""
    spans = [f"{first}" if count == 1 else f"{first}-{first + count - 1}" for first, count in runs_of(ids)]
    return f": {', '.join(spans)}" if spans else ""


def difference(first: DropMap, second: DropMap, experts: int | None) -> dict[str, Any]:
    """Where two maps decide alike and where not, per layer and in total.

    A *drop decision* of A is one expert of one layer that A drops.  A and B differ in it when B keeps that expert.  With the
    base's count of experts, every keep-or-drop decision is compared too.

    Raises:
        InputError: the maps have no layer in common.
    """
    shared = [layer for layer in first.drop if layer in second.drop]
    if not shared:
        raise InputError("the two maps have no layer in common, so there is nothing to compare")
    layers = {layer: _layer_difference(set(first.drop[layer]), set(second.drop[layer])) for layer in shared}
    total = {key: sum(layer[key] for layer in layers.values()) for key in COUNTS}
    return {
        "layers": layers,
        "total": total,
        "decisions": None if experts is None else experts * len(shared),
        "experts": experts,
        "layers_only_in_first": [layer for layer in first.drop if layer not in second.drop],
        "layers_only_in_second": [layer for layer in second.drop if layer not in first.drop],
    }


def _layer_difference(first: set[int], second: set[int]) -> dict[str, int]:
    return {
        "first": len(first),
        "second": len(second),
        "both": len(first & second),
        "only_first": len(first - second),
        "only_second": len(second - first),
    }


def difference_text(first: str, second: str, found: Mapping[str, Any]) -> str:
    """The difference for a person, in words that say of what it is a share."""
    total = found["total"]
    lines = [f"A is {first}", f"B is {second}", _total_line(total)]
    if found["decisions"] is not None:
        changed = total["only_first"] + total["only_second"]
        layers = f"{counted(len(found['layers']), 'layer')} of {counted(found['experts'], 'expert')}"
        of = f"{counted(found['decisions'], 'keep-or-drop decision')} ({layers})"
        lines.append(f"of all {of} they differ in {changed:,} ({_percent(changed, found['decisions'])})")
    for key, name in (("layers_only_in_first", "A"), ("layers_only_in_second", "B")):
        if found[key]:
            lines.append(f"only {name} has layers {', '.join(found[key])}; they are not compared")
    lines += ["", f"{'layer':>6} {'A drops':>8} {'B drops':>8} {'both':>6} {'only A':>7} {'only B':>7}"]
    for layer, each in [*found["layers"].items(), ("all", total)]:
        cells = zip((each[key] for key in COUNTS), (8, 8, 6, 7, 7), strict=True)
        lines.append(" ".join([f"{layer:>6}", *(f"{count:>{width}}" for count, width in cells)]))
    return "\n".join(lines)


def _total_line(total: Mapping[str, int]) -> str:
    if not total["only_first"] and not total["only_second"]:
        return f"A and B drop the same {counted(total['first'], 'expert')}"
    others = f"{total['only_second']:,} other{'' if total['only_second'] == 1 else 's'}" if total["only_second"] else "none"
    if not total["only_first"]:
        return f"B drops {every(total['first'], 'expert')} that A drops, and {others} that A keeps"
    return (
        f"A and B differ in {total['only_first']:,} of {total['first']:,} drop decisions of A"
        f" ({_percent(total['only_first'], total['first'])}): B keeps these experts,"
        f" and drops {others} that A keeps"
    )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "0.0 %"


def experts_of(maps: Mapping[str, DropMap], stated: int | None) -> int | None:
    """The base's experts per layer, from what was stated and from the envelopes.

    Raises:
        InputError: these contradict each other, or an id is not below the number.
    """
    known = {name: found.experts for name, found in maps.items() if found.experts is not None}
    if len(set(known.values())) > 1:
        words = ", ".join(f"{name} says {number}" for name, number in known.items())
        raise InputError(f"the maps are of different bases: {words} experts per layer")
    experts = next(iter(known.values()), stated)
    if stated is not None and stated != experts:
        raise InputError(f"--experts {stated} disagrees with {next(iter(known))}, which says {experts}; leave the option out")
    for name, found in maps.items():
        for layer, ids in found.drop.items():
            if bad := [expert for expert in ids if expert < 0 or (experts is not None and expert >= experts)]:
                raise InputError(f"{name}: layer {layer}: expert {bad[0]} is out of range; experts are numbered from 0")
    return experts


def converted(drop_map: DropMap, form: Literal["envelope", "bare"], experts: int | None, indent: int | None) -> bytes:
    """The map in another form; both forms have the same digest.

    Args:
        drop_map: what to convert.
        form: `bare` is `{"0": [ids], …}`, byte for byte as Python's `json.dump` writes it in published tools.
        experts: experts per layer of the base; the envelope needs it.
        indent: indentation of a bare map; None puts it on one line.

    Raises:
        InputError: an envelope is wanted and nobody said how many experts there are.
    """
    if form == "bare":
        return json.dumps({layer: list(ids) for layer, ids in drop_map.drop.items()}, indent=indent).encode()
    if experts is None:
        raise InputError("a bare map does not say how many experts its base has per layer; give --experts")
    return canonical_json(drop_map.envelope(experts))


def write_picture(path: Path, maps: Sequence[DropMap], names: Sequence[str], experts: int | None) -> None:
    """Draw one map, or two over each other, as layers by experts; equal maps give equal bytes.

    Raises:
        InputError: the file's ending is neither .svg nor .png, or nobody said how many experts there are.
    """
    if path.suffix.lower() not in PICTURES:
        raise InputError(f"{path}: a picture ends in {' or '.join(PICTURES)}")
    if experts is None:
        raise InputError("a bare map does not say how many experts its base has per layer; give --experts for a picture")
    from release.card.pictures.heat_map import heat_map

    form: Form = "svg" if path.suffix.lower() == ".svg" else "png"
    write_atomic(path, heat_map(maps, names, experts, [form])[form])
