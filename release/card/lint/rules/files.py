"""File names that the repository does not hold."""

from __future__ import annotations

import re
from collections.abc import Iterator

from release.card.lint.document import COMMAND, Document
from release.card.lint.finding import Finding
from release.card.lint.knowledge import Knowledge

KIND = "missing file"
SUFFIXES = "json|jsonl|ya?ml|safetensors|gguf|py|sh|jinja|j2|model|md|csv|png|svg|npz|parquet|tiktoken"
NAME = re.compile(
    rf"(?<![\w./:@*{{}}<>$-])(?P<name>(?:\.{{1,2}}/)?(?:[\w*#-][\w.*#-]*/)*[\w*#-][\w.*#-]*\.(?:{SUFFIXES}))(?![\w/*-]|\.\w)"
)
GGUF_REPOSITORY = re.compile(r"(?<![\w./-])[\w.-]+/[\w.-]+-GGUF\b", re.IGNORECASE)
CHECKOUTS = ("llama.cpp/", "lm-evaluation-harness/", "transformers/")
"""Folders of other projects that commands name by custom."""


def find(document: Document, knowledge: Knowledge) -> Iterator[Finding]:
    """Names in text, tables and backquotes; only where the files are known."""
    if knowledge.files is None:
        return
    elsewhere = _ggufs_elsewhere(document, knowledge)
    for line in document.lines:
        if COMMAND.match(line.text) or (line.number > 1 and document.raw[line.number - 2].rstrip().endswith("\\")):
            continue
        for name in dict.fromkeys(match["name"] for match in NAME.finditer(line.text)):
            if elsewhere and name.endswith(".gguf"):
                continue
            if not name.startswith(("../", *CHECKOUTS)) and not knowledge.has(name):
                yield Finding(line.number, KIND, f"the repository has no {name}")


def _ggufs_elsewhere(document: Document, knowledge: Knowledge) -> bool:
    """Whether the card points at a repository of GGUFs, and its own has none: those that it names stand there."""
    own = any(name.endswith(".gguf") for name in knowledge.files or ())
    return not own and any(GGUF_REPOSITORY.search(line) for line in document.raw)
