"""`moe-release attest`: a signed statement that one rebuilt a release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pruner.errors import InputError
from release.commands.options import WorkersOption
from release.commands.running import console_progress, proved_digests


def attest(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="hf://org/name@revision", show_default=False)],
    key: Annotated[
        Path | None, typer.Option("--key", metavar="KEY.pem", help="Your private key: ed25519 or ECDSA …", show_default=False)
    ] = None,
    sigstore: Annotated[bool, typer.Option("--sigstore", help="… or the identity of the workflow that this runs in.")] = False,
    builder: Annotated[
        str | None, typer.Option("--builder", metavar="NAME", help="Who says it; default: the key's id.", show_default=False)
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="The base: a folder, or hf://…; default: its manifest's.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Prove and print the statement; propose nothing.")] = False,
    workers: WorkersOption = None,
) -> None:
    """Rebuild a published release by streaming, sign what came out, and propose it as a pull request."""
    from pruner.sources import parse_address
    from release.attestation.proposal import propose_attestation
    from release.attestation.rebuild import AttestRequest
    from release.attestation.rebuild import attest as make
    from release.hub.endpoint import input_hub

    if (key is None) is not sigstore:
        raise InputError("attest: give --key KEY.pem, or --sigstore")
    repo, revision = parse_address(target)
    hub = input_hub()
    if not dry_run:
        hub.require_token()
    request = AttestRequest(repo, revision, key, builder, base, workers, hub.endpoint, hub.token, proved_digests())
    with console_progress() as progress:
        made = make(request, progress=progress)
        if not dry_run:
            proposal = propose_attestation(made, endpoint=hub.endpoint, token=hub.token, progress=progress)
    if dry_run:
        typer.echo(json.dumps(made.statement, indent=2, ensure_ascii=False))
        typer.echo(f"{made.verdict}: would be proposed as {made.path}", err=True)
    elif proposal is None:
        typer.echo(f"{made.verdict}: {made.path} stands in {repo} already")
    else:
        where = f"pull request {proposal.proposal.number} of {repo}"
        new = f"proposed {made.path} as {where}"
        typer.echo(f"{made.verdict}: {new if proposal.new else f'{made.path} waits in {where} already'}")
    if made.verdict != "GOOD":
        raise typer.Exit(1)
