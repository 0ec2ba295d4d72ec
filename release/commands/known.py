"""A command line held against this program's own, without running anything."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

PLACEHOLDER = re.compile(r"[<>\[\]{}…|]|\.\.\.|\A[A-Z][A-Z_]*\Z")
"""What a person who writes about commands puts for words that the reader fills in."""


def command_error(words: Sequence[str]) -> str | None:
    """Why the words behind `moe-release` are no command line of it; None when they are.

    Only the parsers of options run: no callback, no check of values and no look at files.
    """
    from release.cli import UsageError

    command = _program()
    context = command.context_class(command, info_name="moe-release")
    rest, path = list(words), ["moe-release"]
    while True:
        try:
            given, rest, _ = command.make_parser(context).parse_args(rest)
        except UsageError as error:
            return f"{' '.join(path)}: {error.format_message()}"
        if not hasattr(command, "get_command") or not rest or given.get("help") or PLACEHOLDER.search(rest[0]):
            break
        name, *rest = rest
        command = command.get_command(context, name)
        if command is None:
            return f"{' '.join(path)} has no command {name}"
        context = command.context_class(command, info_name=name, parent=context)
        path.append(name)
    if rest and not hasattr(command, "get_command") and not any(PLACEHOLDER.search(word) for word in words):
        return f"{' '.join(path)} takes no further argument {rest[0]}"
    return None


@cache
def _program() -> Any:
    """The whole command line; imported when it is asked for, since its modules import this one's."""
    from typer.main import get_command

    from release.cli import app

    return get_command(app)
