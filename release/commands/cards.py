"""Commands of cards and tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from pruner.errors import InputError
from release.commands.options import HeadersOption, JsonOption, LlamaOption, WorkOption
from release.commands.running import context_of, run_stages


def card(
    manifest: Annotated[
        Path | None, typer.Argument(metavar="MANIFEST", help="The variant's YAML file.", show_default=False)
    ] = None,
    lint: Annotated[
        Path | None, typer.Option("--lint", metavar="FILE", help="Check any model card instead; exit code 1 with findings.")
    ] = None,
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "--files",
            metavar="DIR|LIST",
            help="For --lint: the files of the card's repository; repeatable; a whole copy is found.",
        ),
    ] = None,
    claims: Annotated[
        Path | None, typer.Option("--claims", metavar="FILE", help="For --lint: its claims.json; one beside the card is found.")
    ] = None,
    from_headers: HeadersOption = False,
    work: WorkOption = None,
    llama_cpp: LlamaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write model cards and the results table of a manifest, what they need being built first; or lint any card."""
    if (manifest is None) == (lint is None):
        raise InputError("card: give a MANIFEST to render its cards, or --lint FILE to check one; not both")
    if manifest is not None and (files or claims):
        raise InputError("card: --files and --claims are of --lint FILE, which checks a card; a MANIFEST brings its own")
    if lint is not None and (from_headers or work or llama_cpp):
        raise InputError("card: --from-headers, --work and --llama-cpp are for rendering a MANIFEST; --lint reads a card alone")
    if manifest is not None and from_headers:
        _from_headers(manifest, work, as_json=as_json)
    elif manifest is not None:
        run_stages(manifest, work=work, until="card", llama_cpp=llama_cpp, as_json=as_json)
    elif lint is not None:
        _lint(lint, files or [], claims, as_json=as_json)


def _from_headers(manifest: Path, work: Path | None, *, as_json: bool) -> None:
    from release.actions.header_card import write_header_card
    from release.context import Options

    context = context_of(manifest, work)
    context.options = Options(from_headers=True)
    path = write_header_card(context)
    typer.echo(json.dumps({"card": str(path)}, indent=2) if as_json else path)


def table(
    manifests: Annotated[list[Path], typer.Argument(metavar="MANIFEST…", help="The family's YAML files.", show_default=False)],
    form: Annotated[Literal["markdown", "csv", "json"], typer.Option("--format", help="What to print.")] = "markdown",
    work: Annotated[
        Path, typer.Option("--work", metavar="DIR", help="Folder with a work folder for each manifest, by name.")
    ] = Path("build"),
    published: Annotated[
        bool, typer.Option("--published", help="Take evidence that no work folder holds from where the manifest publishes it.")
    ] = False,
) -> None:
    """Print the results table of any set of variants, one table per protocol; exit code 1 when evidence is missing."""
    from release.actions.results import changed_since, results_tables, tables_csv, tables_json, tables_markdown

    tables = results_tables(manifests, work, published=published)
    for change in changed_since(manifests, work):
        typer.echo(f"warning: {change}", err=True)
    typer.echo({"markdown": tables_markdown, "csv": tables_csv, "json": tables_json}[form](tables))


def _lint(path: Path, files: list[Path], claims: Path | None, *, as_json: bool) -> None:
    from release.card.lint.run import lint_file, lint_json, lint_text
    from release.commands.known import command_error

    findings = lint_file(path, files=files, claims=claims, command_error=command_error)
    typer.echo(lint_json(findings) if as_json else lint_text(path, findings))
    if findings:
        raise typer.Exit(1)
