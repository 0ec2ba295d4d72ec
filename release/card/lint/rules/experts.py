"""Experts that are kept and dropped, and do not add up to those that there were."""

from __future__ import annotations

import re
from collections.abc import Iterator

from release.card.lint.document import Document
from release.card.lint.finding import Finding
from release.card.lint.knowledge import Knowledge

KIND = "experts"
COUNT = r"(?<![\w.,/\-−+])\d{1,5}(?![\w.,/]?\d)"
KEPT = r"(?:kept|keeps?|remain(?:s|ing)?|retained|survive[sd]?|left)"
DROPPED = r"(?:dropped|drops?|removed|removes?|pruned|cut)"
SENTENCE = re.compile(r"[.;!?](?=\s|\Z)")
CHANGE = re.compile(rf"(?P<all>{COUNT})(?:\s+experts)?\s*(?:to|→|->)\s*(?P<kept>{COUNT})(?:\s+experts)?", re.IGNORECASE)
ALL = re.compile(rf"({COUNT})\s+(?:routed\s+)?experts\b|\b{DROPPED}\s+\d{{1,5}}\s+of\s+(?:the\s+)?({COUNT})", re.IGNORECASE)
OF_ALL = re.compile(
    rf"({COUNT})\s+of\s+(?:the\s+|its\s+)?({COUNT})\s+(?:routed\s+)?experts\s+(?:per\s+layer\s+)?(?:are\s+|were\s+)?{KEPT}\b"
    rf"|\b(?:with|has|having|{KEPT})\s+({COUNT})\s+of\s+(?:the\s+|its\s+)?({COUNT})\s+(?:routed\s+)?experts\b"
    r"(?!\s+(?:are\s+)?(?:active|activated|used|chosen|selected|per\s+token))",
    re.IGNORECASE,
)
KEPT_COUNT = re.compile(rf"({COUNT})\s+(?:experts\s+)?(?:are\s+)?{KEPT}\b|\bkept\s+({COUNT})", re.IGNORECASE)
DROPPED_COUNT = re.compile(
    rf"({COUNT})\s+(?:experts\s+)?(?:are\s+|were\s+)?{DROPPED}\b|\b(?:dropped|drops?|removed)\s+({COUNT})", re.IGNORECASE
)
EXPERT = re.compile(r"\bexperts?\b", re.IGNORECASE)


def find(document: Document, _: Knowledge) -> Iterator[Finding]:
    """Sentences that give all three numbers, each of them once."""
    for line in document.lines:
        for sentence in SENTENCE.split(line.text):
            if EXPERT.search(sentence) and (numbers := _numbers(sentence)) is not None:
                total, kept, dropped = numbers
                layers, rest = divmod(total, max(kept + dropped, 1))
                if kept + dropped != total and not (layers > 1 and not rest):  # of all layers, and of one
                    text = f"{kept} kept and {dropped} dropped are {kept + dropped} experts, the card says {total}"
                    yield Finding(line.number, KIND, text)


def _numbers(sentence: str) -> tuple[int, int, int] | None:
    """All experts, those kept and those dropped; None when one is missing or has two values."""
    change = CHANGE.search(sentence) or OF_ALL.search(sentence)
    if change is None:
        total, kept = _found(ALL, sentence), _found(KEPT_COUNT, sentence)
    elif change.re is CHANGE:
        total, kept = {int(change["all"])}, {int(change["kept"])}
    else:
        total, kept = {int(change[2] or change[4])}, {int(change[1] or change[3])}
    dropped = _found(DROPPED_COUNT, sentence)
    if len(total) != 1 or len(kept) != 1 or len(dropped) != 1:
        return None
    return total.pop(), kept.pop(), dropped.pop()


def _found(pattern: re.Pattern[str], sentence: str) -> set[int]:
    return {int(next(group for group in match.groups() if group)) for match in pattern.finditer(sentence)}
