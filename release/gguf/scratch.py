"""Where a llama.cpp tool works: a scratch folder beside its target, with bare names, and one rename at the end.

Bare names matter because llama-imatrix and llama-quantize write the paths that they were given into their output: the same
command in another folder would give other bytes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pruner.errors import CheckFailedError, InputError, UnavailableError
from pruner.files import fsync_folder, write_errors
from release.gguf.reader import GgufHeader, read_header

OUTPUT = "output.gguf"
NEARLY_FULL = 1 << 20
"""Fewer free bytes than this after a tool failed means that the disk, not the tool, is to blame."""


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target`; it is deleted at the end, and one that a killed run left is deleted first.

    Raises:
        UnavailableError: the disk is full.
    """
    folder = target.with_name(f".{target.name}.scratch")
    with write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove(folder)
        folder.mkdir()
        try:
            yield folder
        finally:
            _remove(folder)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


@contextmanager
def tool_space(folder: Path) -> Iterator[None]:
    """Turn a tool's failure on a full disk into an error that says so; llama-quantize itself says `iostream error`."""
    try:
        yield
    except UnavailableError:
        _blame_full_disk(folder)
        raise


def _blame_full_disk(folder: Path) -> None:
    if shutil.disk_usage(folder).free < NEARLY_FULL:
        raise UnavailableError(f"{folder.parent}: no space left on the disk; free some and run again") from None


def link(folder: Path, name: str, source: Path, what: str) -> None:
    """Give `source` the bare name `name` inside the scratch folder.

    Raises:
        InputError: `source` is no readable file.
    """
    if not source.is_file():
        raise InputError(f"{source}: {what} does not exist")
    if not os.access(source, os.R_OK):
        raise InputError(f"{source}: {what} cannot be read; check its permissions")
    (folder / name).symlink_to(source.resolve())


def check_output(folder: Path, tool: str) -> GgufHeader:
    """Header of what the tool wrote; a tool may end with code 0 and leave half a file.

    Raises:
        CheckFailedError: the file is missing or damaged.
        UnavailableError: it is damaged because the disk is full.
    """
    try:
        return read_header(folder / OUTPUT)
    except InputError as error:
        _blame_full_disk(folder)
        reason = str(error).removeprefix(f"{folder / OUTPUT}: ")
        raise CheckFailedError(f"{tool} reported success but its output is unusable: {reason}") from None


def deliver(folder: Path, target: Path) -> None:
    """Give the finished output its name, durably."""
    output = folder / OUTPUT
    with output.open("rb+") as file:
        os.fsync(file.fileno())
    output.chmod(0o644)
    output.replace(target)
    fsync_folder(target.parent)
