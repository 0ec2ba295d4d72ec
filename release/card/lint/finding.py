"""What a rule found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Finding:
    """One slip: the card's line (from 1), the kind of slip, and the reason in a sentence."""

    line: int
    kind: str
    message: str
