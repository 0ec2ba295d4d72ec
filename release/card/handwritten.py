"""What people wrote by hand into a published card, kept when the card is rendered again.

A part stands between two markers, each alone on its line, which readers of the card do not see:

    <!-- hand-written: notes -->
    Anything.
    <!-- end of hand-written: notes -->

The shipped templates end with the empty part `notes`; a person's own templates may place others.  Parts for which the new card
has no place follow at its end, so nothing is lost.  `without_parts` takes everything back out: a published card with its parts
removed is the rendered one, byte for byte, and has the digest that the lock holds.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from pruner.errors import CheckFailedError, InputError, printable
from pruner.files import sha256_bytes

PART = re.compile(
    r"^<!-- hand-written: (?P<name>[a-z0-9][a-z0-9-]{0,40}) -->\n(?P<text>.*?)^<!-- end of hand-written: (?P=name) -->$",
    re.DOTALL | re.MULTILINE,
)
MARKER = re.compile(r"^<!-- (?:end of )?hand-written: .*-->$", re.MULTILINE)
KEPT = "<!-- hand-written parts of an earlier card -->"
"""Everything below this line came from an earlier card."""
LARGEST = 1 << 20
MOST_LINES = 120
MOST_MARKERS = 100
"""Markers in one card: finding their partners takes quadratic time."""


def hand_written(text: str, where: str) -> dict[str, str]:
    """The hand-written parts of a card by name, each with its line ends; empty ones too.

    Raises:
        CheckFailedError: the card is larger than 1 MiB or has more than a hundred markers, a marker has no partner, or a name
            stands twice.
    """
    if len(text) > LARGEST:
        raise CheckFailedError(f"{where}: is larger than 1 MiB; shorten it by hand first")
    markers = MARKER.findall(_lines(text))
    if len(markers) > MOST_MARKERS:
        raise CheckFailedError(f"{where}: has {len(markers):,} markers of hand-written parts; at most {MOST_MARKERS}")
    found = list(PART.finditer(_lines(text)))
    inside = {match["name"]: match["text"] for match in found}
    if len(markers) != 2 * len(found) or len(inside) != len(found):
        names = sorted({name for name in map(_name, markers) if markers.count(name) != 1} or {"?"})
        raise CheckFailedError(
            f"{where}: hand-written parts must each begin and end once with the same name; mend {', '.join(names)[:100]} there"
        )
    return inside


def _name(marker: str) -> str:
    return marker.split("hand-written: ", 1)[1].removesuffix("-->").strip()


def _lines(text: str) -> str:
    """A web form may have sent other line ends."""
    return text.replace("\r\n", "\n")


def merge(rendered: str, existing: str, where: str = "the published card") -> str:
    """The rendered card with the hand-written parts of the existing one.

    Raises:
        CheckFailedError: the existing card's markers do not pair.
        InputError: a part of the rendered card is not empty, so nobody could tell later who wrote it.
    """
    slots = hand_written(rendered, "the rendered card")
    if filled := sorted(name for name, text in slots.items() if text):
        raise InputError(f"the template fills the hand-written part {filled[0]}; leave it empty, or write outside of it")
    parts = {name: text for name, text in hand_written(existing, where).items() if text.strip()}
    merged = PART.sub(lambda match: _part(match["name"], parts.get(match["name"], "")), rendered)
    homeless = {name: text for name, text in parts.items() if name not in slots}
    return merged + _appendix(homeless) if homeless else merged


def _appendix(parts: Mapping[str, str]) -> str:
    return "\n".join(["", KEPT, *(_part(name, text) for name, text in parts.items()), ""])


def _part(name: str, text: str) -> str:
    return f"<!-- hand-written: {name} -->\n{text}<!-- end of hand-written: {name} -->"


def without_parts(card: str) -> str:
    """The card as it was rendered: every part emptied, and what was kept below it cut off."""
    text = _lines(card).partition(f"\n{KEPT}\n")[0]
    return PART.sub(lambda match: _part(match["name"], ""), text)


def hand_written_lines(card: str) -> list[int]:
    """Numbers, from 1, of the lines that people wrote: in every part, and all that was kept below; empty ones do not count."""
    text = _lines(card)
    above, kept, _ = text.partition(f"\n{KEPT}\n")
    spans = [match.span("text") for match in PART.finditer(above)]
    spans += [(len(above) + len(kept), len(text))] if kept else []
    found = []
    for start, end in spans:
        first = text.count("\n", 0, start) + 1
        lines = enumerate(text[start:end].split("\n"), first)
        found += [number for number, line in lines if line.strip() and not MARKER.fullmatch(line)]
    return found


def only_parts_changed(existing: str, rendered_sha256: str) -> bool:
    """Whether nobody changed a published card outside of its hand-written parts; the digest is that of its lock."""
    return sha256_bytes(without_parts(existing).encode()) == rendered_sha256


def difference(existing: str, new: str, name: str) -> str:
    """What would change in a card, as a unified diff for a terminal; empty when nothing would.

    Only the first lines are shown, and control characters of the existing card are not obeyed.
    """
    old, lines = existing.splitlines(), new.splitlines()
    found = [printable(line) for line in difflib.unified_diff(old, lines, f"published/{name}", f"new/{name}", lineterm="", n=1)]
    rest = [f"… and {len(found) - MOST_LINES:,} lines more"] if len(found) > MOST_LINES else []
    return "\n".join([*found[:MOST_LINES], *rest])
