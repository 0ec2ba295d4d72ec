"""Commands that publish, and that rehearse it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from release.commands.options import (
    HubOption,
    JsonOption,
    LlamaOption,
    ManifestArgument,
    PruneRemoteOption,
    PullRequestOption,
    ReplaceCardOption,
    SignOption,
    UpdateLockOption,
    WorkersOption,
    WorkOption,
)
from release.commands.running import console_line, run_stages, running


def publish(
    manifest: ManifestArgument,
    work: WorkOption = None,
    hub: HubOption = None,
    update_lock: UpdateLockOption = False,
    pull_request: PullRequestOption = False,
    prune_remote: PruneRemoteOption = False,
    sign: SignOption = None,
    replace_card: ReplaceCardOption = False,
    llama_cpp: LlamaOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish to the Hub, one commit per repository, and read everything back."""
    run_stages(
        manifest,
        work=work,
        until="readback",
        hub=hub,
        update_lock=update_lock,
        pull_request=pull_request,
        prune_remote=prune_remote,
        sign=sign,
        replace_card=replace_card,
        llama_cpp=llama_cpp,
        workers=workers,
        as_json=as_json,
    )


def promote(manifest: ManifestArgument, work: WorkOption = None, hub: HubOption = None) -> None:
    """Verify a private release on the Hub once more, then make it public."""
    from release.actions.promotion import promote as make_public

    with running(manifest, work=work, hub=hub) as context:
        typer.echo(make_public(context))


def rehearse(
    manifest: ManifestArgument,
    scratch: Annotated[
        Path | None, typer.Option("--scratch", metavar="DIR", help="Scratch folder; default build/rehearsal/<name>.")
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option("--work", metavar="DIR", help="Take what is finished there, such as build/<name>; default: a new folder."),
    ] = None,
    hub: Annotated[
        str | None, typer.Option("--hub", metavar="URL", help="The real Hub to compare with; default: the public one.")
    ] = None,
    pull_request: PullRequestOption = False,
    prune_remote: PruneRemoteOption = False,
    sign: SignOption = None,
    replace_card: ReplaceCardOption = False,
    llama_cpp: LlamaOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the whole release against a local Hub, and say what the real one will do; exit code 1 when it would stop."""
    from release.actions.rehearsal import outlook, rehearsable, scratch_hub
    from release.hub.endpoint import open_hub
    from release.manifest import load_manifest
    from release.pipeline import run_pipeline

    loaded = load_manifest(manifest)
    rehearsable(loaded)
    folder = scratch or Path("build") / "rehearsal" / loaded.content.name
    finished = Path("build") / loaded.content.name
    if work is None and (finished / "records").is_dir():
        typer.echo(f"everything is made anew in {folder}: to take what is finished, give --work {finished}", err=True)
    with running(
        manifest,
        work=work or folder / "work",
        hub="local",
        hub_folder=scratch_hub(folder),
        rehearsal=True,
        prune_remote=prune_remote,
        sign=sign,
        replace_card=replace_card,
        llama_cpp=llama_cpp,
        workers=workers,
    ) as context:
        run_pipeline(context, lambda result: context.progress.note(console_line(result)))
        with open_hub(hub, folder) as real:
            found = outlook(context, real, pull_request=pull_request)
    typer.echo(json.dumps(found.to_json(), indent=2) if as_json else found.text())
    if found.problems:
        raise typer.Exit(1)
