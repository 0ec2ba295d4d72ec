"""`moe-release hub …`: a local Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

hub_app = typer.Typer(help="A local Hub to rehearse against.", no_args_is_help=True)


@hub_app.command("serve")
def hub_serve(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the Hub keeps its state.", show_default=False)],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
) -> None:
    """Serve a local Hub on the loopback interface until interrupted."""
    from release.hub.local import serve

    serve(folder, port=port)
