"""`moe-release map …`: the command line of `release.reports.maps`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from release.commands.options import JsonOption

map_app = typer.Typer(help="Drop maps: counts, differences, other forms, pictures.", no_args_is_help=True)

ExpertsOption = Annotated[
    int | None, typer.Option("--experts", min=1, metavar="N", help="Experts per layer of the base; bare maps do not say.")
]
PictureOption = Annotated[
    Path | None, typer.Option("--picture", metavar="FILE", help="Draw layers by experts into this .svg or .png file.")
]


@map_app.command("show")
def map_show(
    drop_map: Annotated[Path, typer.Argument(metavar="MAP", show_default=False)],
    experts: ExpertsOption = None,
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say how many experts a drop map drops, and where it came from."""
    from pruner.drop_map import read_drop_map
    from release.reports.maps import describe, description_text, experts_of, write_picture

    found = read_drop_map(drop_map)
    number = experts_of({str(drop_map): found}, experts)
    if picture:
        write_picture(picture, [found], [drop_map.name], number)
        typer.echo(f"picture {picture}", err=True)
    described = describe(found, number)
    typer.echo(json.dumps(described, indent=2) if as_json else description_text(str(drop_map), described))


@map_app.command("diff")
def map_diff(
    first: Annotated[Path, typer.Argument(metavar="A", show_default=False)],
    second: Annotated[Path, typer.Argument(metavar="B", show_default=False)],
    experts: ExpertsOption = None,
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say in which drop decisions two maps differ, per layer and in total."""
    from pruner.drop_map import read_drop_map
    from release.reports.maps import difference, difference_text, experts_of, write_picture

    one, two = read_drop_map(first), read_drop_map(second)
    number = experts_of({f"A ({first})": one, f"B ({second})": two}, experts)
    found = difference(one, two, number)
    if picture:
        write_picture(picture, [one, two], [first.name, second.name], number)
        typer.echo(f"picture {picture}", err=True)
    typer.echo(json.dumps(found, indent=2) if as_json else difference_text(str(first), str(second), found))


@map_app.command("convert")
def map_convert(
    drop_map: Annotated[Path, typer.Argument(metavar="MAP", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", show_default=False)],
    bare: Annotated[bool, typer.Option("--bare", help='Write {"0": [ids], …} instead of our envelope.')] = False,
    experts: ExpertsOption = None,
    indent: Annotated[int | None, typer.Option(min=0, max=8, help="Indentation of a bare map; default: one line.")] = None,
) -> None:
    """Write a drop map in the other form; its digest stays the same."""
    from pruner.drop_map import read_drop_map
    from pruner.files import write_atomic
    from pruner.places import require_replaceable
    from release.reports.maps import converted, experts_of

    require_replaceable(out)
    found = read_drop_map(drop_map)
    number = experts_of({str(drop_map): found}, experts)
    write_atomic(out, converted(found, "bare" if bare else "envelope", number, indent))
    typer.echo(f"{found.digest}  {out}")
