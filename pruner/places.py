"""Places that a user names: what is wrong with one, and what to give instead, in words that are true of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from pruner.errors import InputError, printable

LONGEST_NAME = 255
"""Bytes of a file's or folder's name."""
MOST_SHOWN = 400


def impossible(path: Path) -> str | None:
    """Why nothing can have this path, None when something can."""
    if "\0" in str(path):
        return "has a zero byte in its name"
    try:
        names = [os.fsencode(part) for part in path.parts]
        os.lstat(path)
    except UnicodeEncodeError:
        return "has half a character in its name"
    except OSError as error:  # where a folder above is missing, the system does not look at the rest
        if error.errno == errno.ENAMETOOLONG or max(map(len, names), default=0) > LONGEST_NAME:
            return "has a name that is too long"
    return None


def require_possible(path: Path) -> None:
    """Raise InputError when nothing can have a path that the user named."""
    if (why := impossible(path)) is not None:
        text = str(path)
        shown = printable(text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…")
        raise InputError(f"{shown}: {why}; choose another name")


def missing(path: Path) -> str:
    """How to say that there is nothing at a path."""
    return "is a link that leads nowhere" if path.is_symlink() else "does not exist"


def unreadable(path: Path, error: OSError) -> str:
    """Why a path cannot be read as a file: what is there instead, or else what the system says."""
    if (why := impossible(path)) is not None:
        return why
    if path.is_dir():
        return "is a folder, not a file"
    if isinstance(error, FileNotFoundError):
        return missing(path)
    return f"cannot be read: {error.strerror}"


def require_file(path: Path, what: str) -> None:
    """Raise InputError when a path that the user named is no file; `what` names what belongs there."""
    require_possible(path)
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
    require_possible(path)
    if os.path.lexists(path):
        raise InputError(f"{path}: already exists; remove it or choose another {what}")
    require_folder_above(path)


def require_replaceable(path: Path) -> None:
    """See that a file can be written at a path, over an older one if there is one.

    Raises:
        InputError: it is a folder, or what stands above it is no folder.
    """
    require_possible(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the name of a file to write")
    require_folder_above(path)


def require_folder_above(path: Path) -> None:
    """Raise InputError when folders for a path cannot be made: something above it is a file, or a link that leads nowhere."""
    require_possible(path)
    above = next((each for each in path.absolute().parents if os.path.lexists(each)), None)
    if above is None or above.is_dir():
        return
    why = missing(above) if above.is_symlink() and not above.exists() else "is a file, not a folder"
    raise InputError(f"{path}: cannot be written: {above.name} {why}; choose another place")


def require_outside(out: Path, folder: Path, whose: str) -> None:
    """Raise InputError when a new `out` would lie in a folder that is only read; `whose` names it: `the base's`."""
    require_possible(out)
    if _in_a_circle(out) or _in_a_circle(folder):
        raise InputError(f"{out}: its links lead in a circle, or those of {folder} do; choose another place")
    if out.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{out}: lies in {whose} folder, which nothing is written to; choose a folder beside it")


def _in_a_circle(path: Path) -> bool:
    """Asked of the system, since `Path.resolve` says nothing of it from Python 3.13 on."""
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False
