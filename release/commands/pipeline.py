"""Commands that check a manifest and run the pipeline's stages."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated

import typer

from release.commands.options import (
    HubOption,
    JsonOption,
    LimitOption,
    LlamaOption,
    ManifestArgument,
    OffloadOption,
    PruneRemoteOption,
    PullRequestOption,
    ServerOption,
    ServersOption,
    UpdateLockOption,
    WorkersOption,
    WorkOption,
)
from release.commands.running import context_of, run_stages


def check(manifest: ManifestArgument, as_json: JsonOption = False) -> None:
    """Validate a manifest and every file that it names; nothing is built."""
    from release.manifest import load_manifest
    from release.stages.preflight import check_inputs

    loaded = load_manifest(manifest)
    check_inputs(loaded)
    if as_json:
        typer.echo(loaded.content.model_dump_json(by_alias=True, indent=2))
    else:
        typer.echo(f"{manifest}: a valid manifest of {loaded.content.name}")


def schema(
    page: Annotated[bool, typer.Option("--page", help="As a Markdown page, for people.")] = False,
) -> None:
    """Print the JSON Schema of manifests, for editors."""
    from release.manifest import Manifest
    from release.manifest_reference import manifest_reference

    content = Manifest.model_json_schema(by_alias=True)
    typer.echo(manifest_reference(content) if page else json.dumps(content, indent=2), nl=not page)


def doctor(llama_cpp: LlamaOption = None, as_json: JsonOption = False) -> None:
    """Say which tools are found, and how to get the missing ones."""
    from dataclasses import asdict

    from release.doctor import diagnose

    findings = diagnose(llama_cpp)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            mark = {"ok": "ok     ", "missing": "MISSING", "warning": "warning"}[finding.state]
            remedy = f"  → {finding.remedy}" if finding.remedy else ""
            typer.echo(f"{mark}  {finding.name}: {finding.detail}{remedy}")
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(3)


def plan(manifest: ManifestArgument, work: WorkOption = None, as_json: JsonOption = False) -> None:
    """Show what a build will write, from headers alone; needs a drop map, pinned or already ranked."""
    from release.plan_report import describe_plan, plan_table

    report = describe_plan(context_of(manifest, work))
    typer.echo(json.dumps(report, indent=2) if as_json else plan_table(report))


def cut(
    manifest: ManifestArgument,
    work: WorkOption = None,
    skip: Annotated[str, typer.Option("--skip", metavar="A,B", help="Stages not to run.")] = "",
    until: Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage.")] = None,
    hub: HubOption = None,
    update_lock: UpdateLockOption = False,
    llama_cpp: LlamaOption = None,
    offload: OffloadOption = "none",
    workers: WorkersOption = None,
    servers: ServersOption = 1,
    server: ServerOption = None,
    limit: LimitOption = None,
    pull_request: PullRequestOption = False,
    prune_remote: PruneRemoteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Cut a release: every stage from preflight to reading back what was published."""
    run_stages(
        manifest,
        work=work,
        skip=skip,
        until=until,
        hub=hub,
        update_lock=update_lock,
        llama_cpp=llama_cpp,
        offload=offload,
        workers=workers,
        servers=servers,
        server_urls=tuple(server or ()),
        limit=limit,
        pull_request=pull_request,
        prune_remote=prune_remote,
        as_json=as_json,
    )


def stage_command(stage: str, help_text: str) -> Callable[..., None]:
    """A command that runs the pipeline up to one stage; what is up to date is not run again."""

    def command(
        manifest: ManifestArgument,
        work: WorkOption = None,
        hub: HubOption = None,
        update_lock: UpdateLockOption = False,
        llama_cpp: LlamaOption = None,
        workers: WorkersOption = None,
        as_json: JsonOption = False,
    ) -> None:
        run_stages(
            manifest,
            work=work,
            until=stage,
            hub=hub,
            update_lock=update_lock,
            llama_cpp=llama_cpp,
            workers=workers,
            as_json=as_json,
        )

    command.__doc__ = help_text
    return command


def write_card(
    manifest: ManifestArgument, work: WorkOption = None, llama_cpp: LlamaOption = None, as_json: JsonOption = False
) -> None:
    """Write model cards and the results table, every number from the lock or the evidence."""
    run_stages(manifest, work=work, until="card", llama_cpp=llama_cpp, as_json=as_json)


quantize = stage_command("quantize", "Convert, calibrate and quantize with llama.cpp.")
