"""The command that writes the report of a release."""

from __future__ import annotations

import json

import typer

from release.commands.options import JsonOption, LlamaOption, ManifestArgument, WorkOption
from release.commands.running import context_of


def write_report(
    manifest: ManifestArgument, work: WorkOption = None, llama_cpp: LlamaOption = None, as_json: JsonOption = False
) -> None:
    """Write one HTML page about a finished card, for the person who decides to publish; nothing is built."""
    from release.context import Options
    from release.stages.report import collect_report, report_path, store_report

    context = context_of(manifest, work)
    context.options = Options(llama_cpp=llama_cpp)
    report = collect_report(context)
    store_report(context, report)
    if as_json:
        found = [{"level": each.level, "text": each.text} for each in report.warnings]
        typer.echo(json.dumps({"report": str(report_path(context)), "warnings": found}, indent=2))
    else:
        typer.echo("\n".join([f"{each.level}: {each.text}" for each in report.warnings] + [str(report_path(context))]))
