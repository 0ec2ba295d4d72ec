"""Places that a user names: what is wrong with one, and what to give instead, in words that are true of it."""

from __future__ import annotations

import os
from pathlib import Path

from pruner.errors import InputError


def missing(path: Path) -> str:
    """How to say that there is nothing at a path."""
    return "is a link that leads nowhere" if path.is_symlink() else "does not exist"


def unreadable(path: Path, error: OSError) -> str:
    """Why a path cannot be read as a file: what is there instead, or else what the system says."""
    if path.is_dir():
        return "is a folder, not a file"
    if isinstance(error, FileNotFoundError):
        return missing(path)
    return f"cannot be read: {error.strerror}"


def require_file(path: Path, what: str) -> None:
    """Raise InputError when a path that the user named is no file; `what` names what belongs there."""
    if not path.is_file():
        raise InputError(f"{path}: {'is a folder' if path.is_dir() else missing(path)}; give {what}")


def require_new(path: Path, what: str) -> None:
    """See that something new can be made at a path, before work is spent on it.

    Args:
        path: of a file or folder to be written.
        what: what else to give: `name` of a file, `folder` of a folder.

    Raises:
        InputError: something is there, also a link that leads nowhere, or what stands above it is no folder.
    """
    if os.path.lexists(path):
        raise InputError(f"{path}: already exists; remove it or choose another {what}")
    require_folder_above(path)


def require_replaceable(path: Path) -> None:
    """See that a file can be written at a path, over an older one if there is one.

    Raises:
        InputError: it is a folder, or what stands above it is no folder.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the name of a file to write")
    require_folder_above(path)


def require_folder_above(path: Path) -> None:
    """Raise InputError when folders for a path cannot be made: something above it is a file, or a link that leads nowhere."""
    above = next((each for each in path.absolute().parents if os.path.lexists(each)), None)
    if above is None or above.is_dir():
        return
    why = missing(above) if above.is_symlink() and not above.exists() else "is a file, not a folder"
    raise InputError(f"{path}: cannot be written: {above.name} {why}; choose another place")


def require_outside(out: Path, folder: Path, whose: str) -> None:
    """Raise InputError when a new `out` would lie in a folder that is only read; `whose` names it: `the base's`."""
    if out.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{out}: lies in {whose} folder, which nothing is written to; choose a folder beside it")
