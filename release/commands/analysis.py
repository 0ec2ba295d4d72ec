"""Commands that measure experts and make drop maps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pruner.errors import InputError
from release.commands.options import (
    HubOption,
    JsonOption,
    ManifestArgument,
    OffloadOption,
    UpdateLockOption,
    WorkersOption,
    WorkOption,
)
from release.commands.running import run_stages, running


def analyze(
    manifest: ManifestArgument,
    work: WorkOption = None,
    hub: HubOption = None,
    update_lock: UpdateLockOption = False,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="I/N", help="Only every N-th question from the I-th on.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where the shard's statistics go.")] = None,
    offload: OffloadOption = "none",
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what each expert contributes, by teacher forcing the base."""
    options: dict[str, Any] = {"work": work, "hub": hub, "update_lock": update_lock, "workers": workers}
    if (shard is None) != (out is None):
        raise InputError("analyze: --shard and --out go together; without them the statistics go to the work folder")
    if shard is None or out is None:
        run_stages(manifest, until="analyze", as_json=as_json, offload=offload, **options)
        return
    from pruner.folds import parse_part
    from release.actions.analysis_parts import analyze_shard

    part = parse_part(shard, "--shard")
    with running(manifest, offload=offload, **options) as context:
        typer.echo(analyze_shard(context, part, out))


def merge(
    parts: Annotated[list[Path], typer.Argument(metavar="PART…", help="What `analyze --shard` wrote.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the joined statistics go.", show_default=False)],
) -> None:
    """Join the shards of an analysis; in the work folder as expert_statistics.safetensors, `analyze` takes the result."""
    from release.actions.analysis_parts import merge_parts

    typer.echo(merge_parts(parts, out))


def cross_fit(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="EVIDENCE…", help="One for each fold: of `eval --fold`, or whole runs in order.", show_default=False
        ),
    ],
    protocol: Annotated[
        Path | None,
        typer.Option("--protocol", metavar="FILE", help="That they follow: its gates hold for the joined answers."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Join the runs of the variants of `rank --folds K` into one score: each question by the variant that did not see it."""
    from release.documents import load_document
    from release.evaluation.cross_fit import cross_fit
    from release.evaluation.evidence import read_evidence
    from release.evaluation.protocol import Protocol

    if len(set(runs)) < len(runs):
        raise InputError("cross-fit: the same file is named twice; give one for each fold")
    followed = load_document(protocol, Protocol) if protocol else None
    found = cross_fit({str(path): read_evidence(path) for path in runs}, followed)
    typer.echo(json.dumps(found.model_dump(mode="json"), indent=2) if as_json else found.text())


def rank(
    manifest: ManifestArgument,
    work: WorkOption = None,
    hub: HubOption = None,
    update_lock: UpdateLockOption = False,
    folds: Annotated[
        int | None, typer.Option("--folds", min=2, metavar="K", help="Also K maps, each made without a K-th of the questions.")
    ] = None,
    offload: OffloadOption = "none",
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn expert statistics into a drop map."""
    options: dict[str, Any] = {"work": work, "hub": hub, "update_lock": update_lock, "workers": workers}
    run_stages(manifest, until="rank", as_json=as_json, offload=offload, **options)
    if folds is not None:
        from release.actions.analysis_parts import write_folds

        with running(manifest, **options) as context:
            for path in write_folds(context, folds):
                typer.echo(path, err=as_json)
