"""Numbers of a text with their units, exact: decimals, and the interval that the shown digits stand for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
UNIT = r"%|pp\b|percentage points?\b|percent\b|[KMGT]i?B\b|kB\b|bytes\b|[BMT]\b"
QUANTITY = re.compile(
    rf"(?<![\w.\-−–/_])(?P<sign>[+\-−–±])?(?P<number>{NUMBER})(?:\s?(?P<unit>{UNIT}))?(?![\w]|[.,]\d|[-–][\w])(?!/\d)"
)
FRACTION = re.compile(r"(?<![\w./\-])(?P<part>\d[\d,]{0,20})(?:\s?/\s?|\s+of\s+(?:the\s+)?)(?P<whole>\d[\d,]*)(?![\w/.\-]\w)")
STEP = re.compile(r"(?<![\w./\-])(?P<part>\d[\d,]{0,20})\s*→\s*\d[\d,]*\s+of\s+(?P<whole>\d[\d,]*)")
SAME = {"percentage point": "pp", "percentage points": "pp", "percent": "%"}
BYTES: dict[str, int] = {
    "bytes": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
}
PARAMETERS: dict[str, int] = {"M": 10**6, "B": 10**9, "T": 10**12}
LONGEST_NUMBER = 30


@dataclass(frozen=True)
class Range:
    """All values from `low` to `high`."""

    low: Decimal
    high: Decimal

    def meets(self, other: Range) -> bool:
        """Whether the two have a value in common."""
        return self.low <= other.high and other.low <= self.high

    def times(self, factor: Decimal | int) -> Range:
        """Every value multiplied by a positive factor."""
        return Range(self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Quantity:
    """A number as it is shown: `value` carries the sign, `places` are its digits behind the point."""

    text: str
    value: Decimal
    places: int
    unit: str
    signed: bool
    start: int
    end: int

    @property
    def range(self) -> Range:
        """What the shown digits may stand for: half a unit of the last one to either side."""
        half = Decimal(5).scaleb(-self.places - 1)
        return Range(self.value - half, self.value + half)

    @property
    def kind(self) -> str:
        """bytes, parameters, %, pp or count."""
        if self.unit in BYTES:
            return "bytes"
        return "parameters" if self.unit in PARAMETERS else self.unit or "count"

    @property
    def scale(self) -> int:
        """Bytes or parameters of one unit; 1 for all others."""
        return BYTES.get(self.unit) or PARAMETERS.get(self.unit) or 1

    @property
    def scaled(self) -> Range:
        """The range in bytes or parameters."""
        return self.range.times(self.scale)

    def shows(self, value: Decimal) -> bool:
        """Whether `value` rounds to the shown digits."""
        return self.range.low <= value <= self.range.high


@dataclass(frozen=True)
class Fraction:
    """`part` of `whole`, such as 162/198 or "5 of 10"."""

    part: int
    whole: int
    start: int
    end: int

    @property
    def percent(self) -> Decimal:
        """100 · part / whole."""
        return Decimal(100) * self.part / self.whole

    def __str__(self) -> str:
        return f"{self.part}/{self.whole}"


def quantities(text: str) -> list[Quantity]:
    """Every number of a text that is not part of a name, a version, a date or a range such as 79.5–88.6 %."""
    return list(_quantities(text))


def _quantities(text: str) -> Iterator[Quantity]:
    for match in QUANTITY.finditer(text):
        digits = match["number"].replace(",", "")
        if len(digits) > LONGEST_NUMBER:
            continue
        sign = match["sign"] or ""
        places = len(digits.partition(".")[2])
        unit = match["unit"] or ""
        value = Decimal(digits) * (-1 if sign and sign in "-−–" else 1)
        yield Quantity(match[0], value, places, SAME.get(unit, unit), bool(sign), match.start(), match.end())


def fractions(text: str) -> list[Fraction]:
    """Every "a/b", "a of b" and, of "a → b of n", both."""
    found = []
    for pattern in (FRACTION, STEP):
        for match in pattern.finditer(text):
            if len(match[0]) > LONGEST_NUMBER * 2:
                continue
            part, whole = (int(match[name].replace(",", "")) for name in ("part", "whole"))
            if whole:
                found.append(Fraction(part, whole, match.start(), match.end()))
    return sorted(found, key=lambda each: each.start)


def shown(value: Decimal, places: int) -> str:
    """A value with so many digits behind the point and a real minus."""
    text = f"{abs(value):.{places}f}"
    return f"−{text}" if value < 0 and Decimal(text) else text
