"""Commands that hold weights against each other or against their base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pruner.errors import InputError
from release.commands.options import JsonOption, WorkersOption
from release.commands.running import console_progress, proved_digests


def diff_checkpoints(
    left: Annotated[
        str,
        typer.Argument(metavar="A", help="Folder, hf://org/name@revision, safetensors file or .gguf file.", show_default=False),
    ],
    right: Annotated[str, typer.Argument(metavar="B", help="What to compare with it.", show_default=False)],
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Explain how two checkpoints or two GGUFs differ, down to the expert; exit code 1 when their weights do."""
    from pruner.comparison.diff import diff
    from release.reports.comparison import comparison_json, comparison_text

    if left.endswith(".gguf") != right.endswith(".gguf"):
        one, other = ("A", "B") if left.endswith(".gguf") else ("B", "A")
        raise InputError(f"diff: {one} is a GGUF and {other} is none; give two of a kind")
    if left.endswith(".gguf"):
        _diff_ggufs(left, right, workers, as_json=as_json)
        return
    with console_progress() as progress:
        result = diff(left, right, workers=workers, progress=progress)
    typer.echo(json.dumps(comparison_json(result), indent=2) if as_json else comparison_text(result))
    if not result.same_weights:
        raise typer.Exit(1)


def _diff_ggufs(left: str, right: str, workers: int | None, *, as_json: bool) -> None:
    from release.gguf.diff import diff_ggufs
    from release.gguf.located import locate
    from release.reports.gguf_comparison import gguf_comparison_json, gguf_comparison_text

    with console_progress() as progress:
        result = diff_ggufs(locate(left), locate(right), workers=workers, progress=progress)
    typer.echo(json.dumps(gguf_comparison_json(result), indent=2) if as_json else gguf_comparison_text(result))
    if not result.same_weights:
        raise typer.Exit(1)


def infer_drop_map(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="A prune: folder or hf://org/name@revision.", show_default=False)
    ],
    base: Annotated[str, typer.Option("--base", metavar="BASE", help="What it was made of: folder or hf://org/name@revision.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the drop map here.")] = None,
    map_only: Annotated[bool, typer.Option("--map-only", help="Match router rows only; prove nothing.")] = False,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the experts that a prune kept of its base and prove it; exit code 1 when not all bytes are the base's."""
    from pruner.comparison.inference import infer
    from pruner.files import canonical_json, write_atomic
    from pruner.places import require_new
    from release.reports.comparison import inference_json, inference_text

    if out is not None:
        require_new(out, "name")
    with console_progress() as progress:
        result = infer(target, base, prove=not map_only, workers=workers, progress=progress)
    if out is not None:
        write_atomic(out, canonical_json(result.drop_map.envelope(result.experts)))
    typer.echo(json.dumps(inference_json(result), indent=2) if as_json else inference_text(result))
    if not result.holds:
        raise typer.Exit(1)


def prove(
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", help="A folder, hf://org/name@revision, or a .gguf file.", show_default=False),
    ],
    base: Annotated[
        str,
        typer.Option("--base", help="The base: a folder, hf://org/name@revision, or its .gguf file.", show_default=False),
    ],
    drop_map: Annotated[
        Path | None,
        typer.Option("--drop-map", metavar="FILE", help="Of a GGUF: the map that was used; default: found by router rows."),
    ] = None,
    spot: Annotated[int | None, typer.Option("--spot", min=1, help="Compare only this many random blocks.")] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Draw the same blocks as a run that printed this; default: others each time.")
    ] = None,
    locate: Annotated[
        bool | None,
        typer.Option("--locate/--no-locate", help="Read BAD shards to name tensor and expert; default: when TARGET is local."),
    ] = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove that a pruned checkpoint was made of its base, writing nothing; exit code 1 when a file is BAD."""
    import secrets

    from pruner.proof import prove as prove_target
    from pruner.sources import open_source
    from pruner.spot import spot_check
    from release.reports.proof import proof_json, proof_text

    found: Any
    if seed is not None and spot is None:
        raise InputError("prove: --seed draws the blocks of --spot N; without it every byte is compared")
    if target.endswith(".gguf"):
        _prove_gguf(target, base, drop_map, locate=locate, spot=spot, as_json=as_json)
        return
    if drop_map is not None:
        raise InputError("--drop-map is for a .gguf file; a checkpoint says itself which experts it dropped")
    with console_progress() as progress:
        sources = open_source(target), open_source(base)
        if spot is None:
            found = proof = prove_target(*sources, workers=workers, progress=progress, locate=locate)
        else:
            found = spot_check(
                *sources, spot, seed=secrets.randbits(32) if seed is None else seed, workers=workers, progress=progress
            )
            proof = found.proof
    typer.echo(json.dumps(proof_json(found), indent=2) if as_json else proof_text(found))
    if not proof.good:
        raise typer.Exit(1)


def _prove_gguf(target: str, base: str, drop_map: Path | None, *, locate: bool | None, spot: int | None, as_json: bool) -> None:
    from release.gguf.direct_cut import prove_directly
    from release.reports.proof import proof_json, proof_text

    if spot is not None:
        raise InputError("--spot is for checkpoints; a GGUF is compared as a whole")
    with console_progress() as progress:
        cache = proved_digests()
        proof = prove_directly(target, base, drop_map=drop_map, locate_difference=locate, cache=cache, progress=progress)
    typer.echo(json.dumps(proof_json(proof), indent=2) if as_json else proof_text(proof))
    if not proof.good:
        raise typer.Exit(1)
