"""`moe-release verify MANIFEST --requantize`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import typer

from pruner.errors import InputError
from release.commands.running import running


def requantize_manifest(
    manifest: Path, work: Path | None, *, imatrix: Path | None, llama_cpp: Path | None, workers: int | None, as_json: bool
) -> None:
    """Run the pipeline to the unquantized GGUF, make the quants again and compare; exit code 1 unless all are GOOD."""
    from release.pipeline import run_pipeline
    from release.verification.requantize import requantize, requantize_table

    if manifest.is_dir():
        raise InputError(f"{manifest}: a folder: --requantize wants a manifest")
    with running(manifest, work=work, until="convert", llama_cpp=llama_cpp, workers=workers) as context:
        run_pipeline(context)
        found = requantize(context, imatrix)
    typer.echo(json.dumps([asdict(each) for each in found], indent=2) if as_json else requantize_table(found))
    if any(each.verdict != "GOOD" for each in found):
        raise typer.Exit(1)
