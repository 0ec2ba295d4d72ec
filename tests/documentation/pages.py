"""The Markdown pages of the project, and the commands in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from tests.conftest import ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")])
PARSED_ONLY = re.compile(r"<!-- parsed only: (?P<reason>.+) -->")


def name(page: Path) -> str:
    """What a test calls a page."""
    return page.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Command:
    """One command line of a page; `parsed_only` says why it cannot run in a test."""

    page: str
    line: int
    words: tuple[str, ...]
    parsed_only: str | None


def commands(page: Path) -> list[Command]:
    """The commands of a page's `sh` blocks, in order; an HTML comment before a block keeps it from being run."""
    found: list[Command] = []
    reason: str | None = None
    for token in MarkdownIt().parse(page.read_text()):
        if token.type == "html_block":
            match = PARSED_ONLY.search(token.content)
            reason = match["reason"] if match else None
        elif token.type == "fence" and token.info == "sh":
            start = token.map[0] + 2 if token.map else 0
            for number, line in enumerate(token.content.replace("\\\n", " ").splitlines()):
                words = tuple(shlex.split(line, comments=True))
                if words:
                    found.append(Command(name(page), start + number, words, reason))
            reason = None
        elif token.type not in {"inline", "paragraph_open", "paragraph_close"}:
            reason = None
    return found


def links(page: Path) -> list[str]:
    """Targets of a page's links."""
    tokens = MarkdownIt().parse(page.read_text())
    inline = [child for token in tokens for child in token.children or ()]
    return [str(child.attrs["href"]) for child in inline if child.type == "link_open"]
