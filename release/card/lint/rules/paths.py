"""Paths of somebody's machine."""

from __future__ import annotations

import re
from collections.abc import Iterator

from release.card.lint.document import Document
from release.card.lint.finding import Finding
from release.card.lint.knowledge import Knowledge

KIND = "local path"
LOCAL = re.compile(
    r"file://\S+|(?<![\w.~:/-])(?:/(?:home|Users|root|mnt|media|srv|data|opt|tmp|var|scratch|workspace|content|kaggle|shared|work)"
    r"/[\w.-][^\s\"'`<>|)]*|[A-Za-z]:\\{1,2}[\w.-][^\s\"'`<>|)]*)"
)
MOST_SHOWN = 60


def find(document: Document, _: Knowledge) -> Iterator[Finding]:
    """Absolute paths anywhere in the file, code and front matter included."""
    for number, line in enumerate(document.raw, 1):
        for match in LOCAL.finditer(line):
            yield Finding(number, KIND, f"{match[0][:MOST_SHOWN]} is a path of one machine; nobody else has it")
