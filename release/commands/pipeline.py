"""Commands that check a manifest and run the pipeline's stages."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from release.commands.options import (
    BaseOption,
    HeadersOption,
    HubOption,
    JsonOption,
    LimitOption,
    LlamaOption,
    ManifestArgument,
    MemoryOption,
    OffloadOption,
    PruneRemoteOption,
    PullRequestOption,
    ReplaceCardOption,
    ServerOption,
    ServersOption,
    SignOption,
    UpdateLockOption,
    WorkersOption,
    WorkOption,
)
from release.commands.running import context_of, run_stages


def check(manifest: ManifestArgument, base: BaseOption = None, as_json: JsonOption = False) -> None:
    """Validate a manifest and every file that it names; nothing is built."""
    from release.manifest import load_manifest
    from release.stages.preflight import check_inputs, license_warning, not_buildable
    from release.stages.quant_recipes import check_recipes, check_types

    loaded = load_manifest(manifest, base)
    check_inputs(loaded)
    check_types(loaded)
    check_recipes(loaded)
    if warning := license_warning(loaded):
        typer.echo(f"warning: {warning}", err=True)
    if as_json:
        typer.echo(loaded.content.model_dump_json(by_alias=True, indent=2))
    else:
        typer.echo(f"{manifest}: a valid manifest of {loaded.content.name}")
        for reason in not_buildable(loaded):
            typer.echo(f"  cannot be built: {reason}")


def schema(
    page: Annotated[bool, typer.Option("--page", help="As a Markdown page, for people.")] = False,
) -> None:
    """Print the JSON Schema of manifests, for editors."""
    from release.manifest import Manifest
    from release.reports.manifest_reference import manifest_reference

    content = Manifest.model_json_schema(by_alias=True)
    typer.echo(manifest_reference(content) if page else json.dumps(content, indent=2), nl=not page)


def doctor(llama_cpp: LlamaOption = None, as_json: JsonOption = False) -> None:
    """Say which tools are found, and how to get the missing ones."""
    from dataclasses import asdict

    from release.actions.doctor import diagnose

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


def plan(
    manifest: ManifestArgument,
    work: WorkOption = None,
    base: BaseOption = None,
    from_headers: HeadersOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a build will write, from headers alone; needs a drop map, pinned or already ranked, but with --from-headers."""
    from release.actions.plan_report import describe_plan, plan_table
    from release.context import Options

    context = context_of(manifest, work, base)
    context.options = Options(from_headers=from_headers)
    report = describe_plan(context)
    typer.echo(json.dumps(report, indent=2) if as_json else plan_table(report))


def cut(
    manifest: ManifestArgument,
    work: WorkOption = None,
    base: BaseOption = None,
    skip: Annotated[str, typer.Option("--skip", metavar="A,B", help="Stages not to run.")] = "",
    until: Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage.")] = None,
    hub: HubOption = None,
    update_lock: UpdateLockOption = False,
    replace_card: ReplaceCardOption = False,
    llama_cpp: LlamaOption = None,
    offload: OffloadOption = "none",
    workers: WorkersOption = None,
    servers: ServersOption = 1,
    server: ServerOption = None,
    limit: LimitOption = None,
    pull_request: PullRequestOption = False,
    prune_remote: PruneRemoteOption = False,
    sign: SignOption = None,
    memory: MemoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cut a release: every stage from preflight to reading back what was published."""
    run_stages(
        manifest,
        work=work,
        base=base,
        skip=skip,
        until=until,
        hub=hub,
        update_lock=update_lock,
        replace_card=replace_card,
        llama_cpp=llama_cpp,
        offload=offload,
        workers=workers,
        servers=servers,
        server_urls=tuple(server or ()),
        limit=limit,
        pull_request=pull_request,
        prune_remote=prune_remote,
        sign=sign,
        memory=memory,
        as_json=as_json,
    )


def quantize(
    manifest: ManifestArgument,
    work: WorkOption = None,
    llama_cpp: LlamaOption = None,
    workers: WorkersOption = None,
    memory: MemoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Convert, calibrate and quantize with llama.cpp; quants run side by side within --memory."""
    run_stages(manifest, work=work, until="quantize", llama_cpp=llama_cpp, workers=workers, memory=memory, as_json=as_json)
