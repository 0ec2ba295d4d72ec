"""`moe-release jobs …`: compute jobs on the Hub."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

jobs_app = typer.Typer(help="Verify or evaluate a release in a job on the Hub.", no_args_is_help=True)


@jobs_app.callback()
def _jobs() -> None:
    """A group, also while it has one command."""


@jobs_app.command("submit")
def jobs_submit(
    task: Annotated[Literal["verify", "eval"], typer.Argument(help="verify: its bytes and quants; eval: repeat its exam too.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="hf://org/name@revision", show_default=False)],
    flavor: Annotated[
        str, typer.Option("--flavor", help="Hardware, as `hf jobs hardware` lists it; a GPU is not used.")
    ] = "cpu-upgrade",
    timeout: Annotated[str, typer.Option("--timeout", metavar="TIME", help="Such as 90m or 6h.")] = "6h",
    exam_data: Annotated[
        str | None,
        typer.Option(
            "--exam-data",
            metavar="ADDRESS",
            help="The exam's questions: hf://datasets/org/name@revision/FILE.",
            show_default=False,
        ),
    ] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", help="Who pays; default: the token's owner.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be sent.")] = False,
) -> None:
    """Submit a job that runs on the Hub's machines with your token."""
    from release.hub.endpoint import input_hub
    from release.hub.jobs import job_request, submit

    request = job_request(task, target, flavor=flavor, timeout=timeout, exam_data=exam_data)
    if dry_run:
        typer.echo(json.dumps(request.to_json(), indent=2))
        return
    job = submit(request, input_hub(), namespace)
    typer.echo(f"{job.id}  {job.url}")
