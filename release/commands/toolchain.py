"""`moe-release toolchain …`: the pinned llama.cpp."""

from __future__ import annotations

from typing import Annotated

import typer

from pruner.errors import UnavailableError
from release.commands.running import console_progress

toolchain_app = typer.Typer(help="The pinned llama.cpp build.", no_args_is_help=True)


@toolchain_app.command("install")
def toolchain_install(
    cmake_arguments: Annotated[
        list[str] | None, typer.Argument(help="Extra CMake arguments, after --.", show_default=False)
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Parallel compiler jobs; default one per core.")] = None,
    if_missing: Annotated[bool, typer.Option("--if-missing", help="Do nothing when any llama.cpp is found.")] = False,
) -> None:
    """Build the pinned llama.cpp from PyPI's source distribution into the user's cache, once."""
    from release.gguf.golden import self_test
    from release.gguf.install import install_toolchain
    from release.gguf.toolchain import find_toolchain

    if if_missing:
        try:
            found = find_toolchain()
            found.converter()
        except UnavailableError:
            pass  # that is what the command is for
        else:
            typer.echo(f"llama.cpp {found.commit[:9]} in {found.folder} ({found.origin}); {self_test(found)}")
            return
    with console_progress() as progress:
        toolchain = install_toolchain(progress=progress, cmake_arguments=tuple(cmake_arguments or ()), jobs=jobs)
        tested = self_test(toolchain, progress=progress)
    typer.echo(f"llama.cpp {toolchain.commit[:9]} in {toolchain.folder}; {tested}")
