"""What day it is for a chat template that asks, as gpt-oss's and Llama's do: the same on any day, so that statistics are too.

transformers gives templates a clock, `strftime_now`, and hands no function of a caller's on to them.  So the template itself
gets a macro of that name, which stands before the clock.
"""

from __future__ import annotations

from datetime import datetime

NAME = "strftime_now"
MOMENT = datetime(2025, 1, 1)  # noqa: DTZ001 - a template prints it as it is
DIRECTIVES = "aAbBdHIjmMpSUwWyYfGuV"


def template_date(template: str) -> str | None:
    """The day that a chat template is told, or None when it does not ask."""
    return MOMENT.date().isoformat() if NAME in template else None


def timeless(template: str) -> str:
    """A chat template that renders alike on any day; one that does not ask for it is returned as it is."""
    return f"{_macro()}\n{template}" if NAME in template else template  # the engine takes a line's end behind a block away


def _macro() -> str:
    values = {f"%{letter}": MOMENT.strftime(f"%{letter}") for letter in DIRECTIVES}
    plain = {f"%-{letter}": values[f"%{letter}"].lstrip("0") or "0" for letter in "dHIjmMSUWy"}
    composed = {"%F": "%Y-%m-%d", "%T": "%H:%M:%S", "%D": "%m/%d/%y", "%R": "%H:%M"}
    replaced = "".join(f" | replace({old!r}, {new!r})" for old, new in (composed | plain | values).items())
    return f"{{%- macro {NAME}(format) -%}}{{{{ format{replaced} }}}}{{%- endmacro %}}"
