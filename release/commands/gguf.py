"""`moe-release gguf …`: GGUFs without a manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pruner.errors import printable
from release.commands.options import JsonOption
from release.commands.running import console_progress

gguf_app = typer.Typer(help="Quantized files: cut them from the base's.", no_args_is_help=True)


@gguf_app.command("cut")
def gguf_cut(
    base: Annotated[
        str,
        typer.Argument(
            metavar="BASE.gguf",
            help="A file, or hf://owner/repo@revision/path/file.gguf; of a split GGUF its first part.",
            show_default=False,
        ),
    ],
    drop_map: Annotated[Path, typer.Argument(metavar="DROP_MAP", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT.gguf", help="The file to write.", show_default=False)],
    name: Annotated[
        str | None, typer.Option("--name", help="The model's name; default: OUT without its quant label.", show_default=False)
    ] = None,
    sha256: Annotated[
        list[str] | None,
        typer.Option("--sha256", metavar="DIGEST", help="What the base must have; of a split one for each part, in order."),
    ] = None,
    max_shard_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Write a larger GGUF in shards of so much tensor data, OUT-00001-of-0000N.gguf."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Slice a base's quantized GGUF on the expert axis: no conversion, no quantization, no llama.cpp."""
    from release.gguf.direct_cut import cut_directly

    with console_progress() as progress:
        summary = cut_directly(
            base, drop_map, out, name=name, sha256=sha256 or (), max_shard_size=max_shard_size, progress=progress
        )
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
        return
    for note in summary["notes"]:
        typer.echo(printable(f"note: cut from {summary['base']}, {note}"), err=True)
    if summary["unchecked"]:
        typer.echo(printable(f"note: {summary['unchecked']}"), err=True)
    for file in summary["files"]:
        typer.echo(printable(f"{file['sha256']}  {file['name']}"))
