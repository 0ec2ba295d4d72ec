"""What people wrote by hand into a published card: nobody can recompute it, so it is counted, and held against the rest."""

from __future__ import annotations

import re
from typing import Any

from pruner.wording import counted
from release.card.handwritten import hand_written_lines
from release.card.lint.document import parse_document
from release.card.lint.finding import Finding
from release.card.lint.knowledge import Knowledge
from release.card.lint.rules import (
    breakdown,
    config,
    differences,
    experts,
    gigabytes,
    percentages,
    quant_sizes,
    repeated,
    shares,
    sums,
)
from release.card.lint.rules import claims as number_claims
from release.card.lint.run import lint
from release.verdict import Pieces, Verdict

SCORE = re.compile(r"%|\bpp\b|per[ -]?cent|points?\b")
NUMBERS = (breakdown, config, differences, experts, gigabytes, percentages, quant_sizes, repeated, shares, sums)
CONTRADICTIONS = frozenset(rule.KIND for rule in NUMBERS)
"""Kinds of findings about a number that does not fit another."""


def check_notes(name: str, card: str, claims: dict[str, dict[str, Any]], pieces: Pieces) -> int:
    """Name the scores in hand-written lines that no claim shows, and numbers that contradict the rest of the card.

    Args:
        name: of the card, for the pieces.
        card: as it is published.
        claims: the release's.
        pieces: get what was found; it is UNKNOWN, for nothing that is published says whether it is so.

    Returns:
        how many lines are hand-written.
    """
    written = hand_written_lines(card)
    if not written:
        return 0
    loose = [each for each in lint(parse_document(card), Knowledge(claims=claims)) if each.line in {*written} and _counts(each)]
    for each in loose:
        pieces.add(f"{name}:{each.line}", Verdict.UNKNOWN, f"is hand-written: {each.message}")
    return len(written)


def _counts(finding: Finding) -> bool:
    """Whether a finding is about a score or contradicts another number; a number that no claim shows may be of anything."""
    return SCORE.search(finding.message) is not None if finding.kind == number_claims.KIND else finding.kind in CONTRADICTIONS


def but_for(lines: int) -> str:
    """Words that follow a finding."""
    return f", but for {counted(lines, 'hand-written line')}" if lines else ""
