"""Claims: values on a card, each with its unit and the place that it was computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

Unit = Literal[
    "count", "bytes", "parameters", "share", "points", "change", "digest", "text", "number", "measure", "probability"
]

GB = 10**9
MB = 10**6
KB = 10**3
GIB = 1 << 30
MIB = 1 << 20
BILLION = 10**9
SHORT_DIGEST = 12


@dataclass(frozen=True)
class Claim:
    """A value that a template may print.

    `source` names the file of the release and the place in it that the value is read or computed from.  `share` is a fraction
    of 1 shown as %, `points` a difference of two shares shown as pp, `change` a relative difference shown as % with its sign;
    they are never mixed.
    """

    value: int | float | str
    unit: Unit
    source: str

    def __str__(self) -> str:
        return _FORMATTERS[self.unit](self.value)

    @property
    def short(self) -> str:
        """The first digits of a digest."""
        return str(self.value)[:SHORT_DIGEST]


class SourcedText(str):
    """A text that is a claim: it reads like any text, and knows where it comes from."""

    __slots__ = ("source",)
    source: str

    def __new__(cls, text: str, source: str) -> SourcedText:
        """The text, with the file and the place in it that it was computed from."""
        result = super().__new__(cls, text)
        result.source = source
        return result

    def __reduce__(self) -> tuple[type[SourcedText], tuple[str, str]]:
        """How another process gets it."""
        return SourcedText, (str(self), self.source)


CONFIDENCE = SourcedText("95 %", "release/evaluation/stats.py: wilson_interval")
"""Of every interval that cards show."""


def format_bytes(value: float) -> str:
    """Decimal and binary units side by side, since cards are misread by exactly that factor."""
    if value >= GB:
        return f"{value / GB:.2f} GB ({value / GIB:.2f} GiB)"
    if value >= MB:
        return f"{value / MB:.2f} MB ({value / MIB:.2f} MiB)"
    return f"{value / KB:.2f} kB" if value >= KB else f"{value:.0f} bytes"


def format_parameters(value: float) -> str:
    """Billions, or millions of small models."""
    return f"{value / BILLION:.2f} B" if value >= BILLION else f"{value / MB:.2f} M"


def format_signed(value: float, suffix: str) -> str:
    """A difference with its sign; the minus is a real one, and zero has none."""
    rounded = round(value, 2)
    sign = "+" if rounded > 0 else "−" if rounded < 0 else "±"
    return f"{sign}{abs(rounded):.2f} {suffix}"


_FORMATTERS: dict[Unit, Callable[[Any], str]] = {
    "count": lambda value: f"{value:,}",
    "bytes": format_bytes,
    "parameters": format_parameters,
    "share": lambda value: f"{100 * value:.2f} %",
    "points": lambda value: format_signed(100 * value, "pp"),
    "change": lambda value: format_signed(100 * value, "%"),
    "digest": str,
    "text": str,
    "probability": lambda value: f"{value:.2g}",
    "number": lambda value: f"{value:.2f}",
    "measure": lambda value: f"{value:.4g}",
}


def claims_in(facts: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every claim inside nested facts, by its place there, as JSON: value, unit, source and how it is shown."""
    if isinstance(facts, Claim):
        yield path, {"value": facts.value, "unit": facts.unit, "source": facts.source, "shown": str(facts)}
    elif isinstance(facts, SourcedText):
        yield path, {"value": str(facts), "unit": "text", "source": facts.source, "shown": str(facts)}
    elif isinstance(facts, Mapping):
        for key, value in facts.items():
            yield from claims_in(value, f"{path}.{key}".lstrip("."))
    elif isinstance(facts, (list, tuple)):
        for number, value in enumerate(facts):
            yield from claims_in(value, f"{path}.{number}")
    elif is_dataclass(facts):
        for name in (each.name for each in fields(facts)):
            yield from claims_in(getattr(facts, name), f"{path}.{name}")
