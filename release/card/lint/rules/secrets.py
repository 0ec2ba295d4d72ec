"""Tokens and keys."""

from __future__ import annotations

from collections.abc import Iterator

from release.card.lint.document import Document
from release.card.lint.finding import Finding
from release.card.lint.knowledge import Knowledge
from release.hub.secret_scan import CREDENTIALS

KIND = "secret"


def find(document: Document, _: Knowledge) -> Iterator[Finding]:
    """Credentials anywhere in the file; the finding never repeats one."""
    for number, line in enumerate(document.raw, 1):
        for name, pattern in CREDENTIALS:
            if pattern.search(line):
                yield Finding(number, KIND, f"holds {name}; revoke it and take it out")
