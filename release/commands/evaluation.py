"""Commands that evaluate quants and compare runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from release.commands.options import (
    FoldOption,
    HubOption,
    JsonOption,
    LimitOption,
    LlamaOption,
    ManifestArgument,
    ServerOption,
    ServersOption,
    UpdateLockOption,
    WorkersOption,
    WorkOption,
)
from release.commands.running import run_stages


def evaluate(
    manifest: ManifestArgument,
    work: WorkOption = None,
    hub: HubOption = None,
    update_lock: UpdateLockOption = False,
    llama_cpp: LlamaOption = None,
    workers: WorkersOption = None,
    servers: ServersOption = 1,
    server: ServerOption = None,
    limit: LimitOption = None,
    fold: FoldOption = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate quants under the locked protocol, with its patch pass; quants that are missing are made first."""
    run_stages(
        manifest,
        work=work,
        until="eval",
        hub=hub,
        update_lock=update_lock,
        llama_cpp=llama_cpp,
        workers=workers,
        servers=servers,
        server_urls=tuple(server or ()),
        limit=limit,
        fold=fold,
        as_json=as_json,
    )


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="A B…",
            help="Evidence files (build/NAME/eval/QUANT/evidence.json), or output folders of lm-eval.",
            show_default=False,
        ),
    ],
    allow_different_protocols: Annotated[
        bool, typer.Option("--allow-different-protocols", help="Say what differs instead of refusing; then no test is made.")
    ] = False,
    protocol: Annotated[
        list[Path] | None,
        typer.Option(
            "--protocol",
            metavar="FILE",
            help="Repeatable: that of evidence, to tell settings apart; the first one's gates hold for lm-eval's outputs.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare runs with the first of them, question by question, by an exact paired test."""
    from release.evaluation.report import compare_runs

    report = compare_runs(runs, protocol or (), allow_different_protocols=allow_different_protocols)
    typer.echo(json.dumps(report.to_json(), indent=2) if as_json else report.text())
