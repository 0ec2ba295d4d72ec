"""The errors that a user may see.  Each message is one line: what, where, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pydantic import ValidationError

LONGEST_LINE = 1800
"""Characters of a message; names in foreign files may be far longer."""


def printable(text: str) -> str:
    """Text for one line of a terminal or a report: control characters of foreign names are shown, not obeyed."""
    shown = "".join(each if each.isprintable() else each.encode("unicode_escape", "replace").decode("ascii") for each in text)
    return shown if len(shown) <= LONGEST_LINE + 2 else f"{shown[:LONGEST_LINE]} …"


def first_problem(error: ValidationError) -> str:
    """Where in a foreign document the first thing is wrong, and what: `outputs.x.size: Field required`."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    what = str(first["msg"]).removeprefix("Value error, ")
    return f"{where}: {what}" if where else what


class MoeReleaseError(Exception):
    """Base of every error that is reported as one line instead of a traceback, whatever foreign names the message quotes."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class CheckFailedError(MoeReleaseError):
    """A check that the release depends on failed: a digest, a gate, a comparison (exit code 1)."""

    exit_code = 1


class InputError(MoeReleaseError):
    """Something that the user supplied cannot be used: manifest, drop map, checkpoint, option (exit code 2)."""

    exit_code = 2


class UnavailableError(MoeReleaseError):
    """Something outside is missing or broken: a tool, a credential, a server, disk space (exit code 3)."""

    exit_code = 3
