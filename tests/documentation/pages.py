"""The Markdown pages of the project, and the commands in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from tests.conftest import ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")])
PLACEHOLDERS = "<!-- placeholders: "
SHOWN = dict(re.findall(r"^    ✓ (.+?)  +[0-9.]+ s  (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE))
"""What the README shows of a run: a stage's line by its title."""


def name(page: Path) -> str:
    """What a test calls a page."""
    return page.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Command:
    """One command line of a page; with `placeholders` a test has to put something in their place before it runs."""

    page: str
    line: int
    words: tuple[str, ...]
    placeholders: bool


def commands(page: Path) -> list[Command]:
    """The commands of a page's `sh` blocks, in order; an HTML comment before a block says that it has placeholders."""
    found: list[Command] = []
    placeholders = False
    for token in MarkdownIt().parse(page.read_text()):
        if token.type == "html_block":
            placeholders = PLACEHOLDERS in token.content
        elif token.type == "fence" and token.info == "sh":
            start = token.map[0] + 2 if token.map else 0
            for number, line in enumerate(token.content.replace("\\\n", " ").splitlines()):
                words = tuple(shlex.split(line, comments=True))
                if words:
                    found.append(Command(name(page), start + number, words, placeholders))
            placeholders = False
        elif token.type not in {"inline", "paragraph_open", "paragraph_close"}:
            placeholders = False
    return found


def mentions(page: Path) -> list[tuple[str, ...]]:
    """The words behind `moe-release` where a page names a command in a sentence or in an indented block."""
    tokens = MarkdownIt().parse(page.read_text())
    lines = [line for token in tokens if token.type == "code_block" for line in token.content.splitlines()]
    lines += [child.content for token in tokens for child in token.children or () if child.type == "code_inline"]
    return [tuple(shlex.split(line, comments=True))[1:] for line in lines if line.startswith("moe-release ")]


def links(page: Path) -> list[str]:
    """Targets of a page's links."""
    tokens = MarkdownIt().parse(page.read_text())
    inline = [child for token in tokens for child in token.children or ()]
    return [str(child.attrs["href"]) for child in inline if child.type == "link_open"]
