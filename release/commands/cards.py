"""Commands of cards and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pruner.errors import InputError
from release.commands.options import JsonOption, LlamaOption, WorkOption
from release.commands.running import run_stages


def card(
    manifest: Annotated[
        Path | None, typer.Argument(metavar="MANIFEST", help="The variant's YAML file.", show_default=False)
    ] = None,
    lint: Annotated[
        Path | None, typer.Option("--lint", metavar="FILE", help="Check any model card instead; exit code 1 with findings.")
    ] = None,
    files: Annotated[
        Path | None, typer.Option("--files", metavar="DIR|LIST", help="For --lint: the files of the card's repository.")
    ] = None,
    claims: Annotated[
        Path | None, typer.Option("--claims", metavar="FILE", help="For --lint: its claims.json; one beside the card is found.")
    ] = None,
    work: WorkOption = None,
    llama_cpp: LlamaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write model cards and the results table, every number from the lock or the evidence; or lint any card."""
    if (manifest is None) == (lint is None):
        raise InputError("card: give a MANIFEST, or --lint FILE")
    if manifest is not None:
        run_stages(manifest, work=work, until="card", llama_cpp=llama_cpp, as_json=as_json)
    elif lint is not None:
        _lint(lint, files, claims, as_json=as_json)


def _lint(path: Path, files: Path | None, claims: Path | None, *, as_json: bool) -> None:
    from release.card.lint.run import lint_file, lint_json, lint_text

    findings = lint_file(path, files=files, claims=claims)
    typer.echo(lint_json(findings) if as_json else lint_text(path, findings))
    if findings:
        raise typer.Exit(1)
