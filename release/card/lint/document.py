"""A card as rules see it: lines with their markup taken off, rows of tables, code, links and headings, each with its line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pruner.errors import InputError

if TYPE_CHECKING:
    from markdown_it.token import Token

LARGEST = 512 << 10
LONGEST_LINE = 4000
"""Characters of a line that rules look at."""
FRONT_MATTER = re.compile(r"\A---\r?\n.*?^---[ \t]*$", re.DOTALL | re.MULTILINE)
TAG = re.compile(r"<!--.*?(?:-->|\Z)|</?[A-Za-z][^<>]*>", re.DOTALL)
HTML_LINK = re.compile(r"<(?:a|img)\b[^<>]*?\b(?:href|src)\s*=\s*[\"']([^\"'<>]+)[\"']", re.IGNORECASE)
HTML_ANCHOR = re.compile(r"<[A-Za-z]+\b[^<>]*?\b(?:id|name)\s*=\s*[\"']([^\"'<>]+)[\"']")
COMMAND = re.compile(
    r"^\s*(?:\$ |(?:[\w./-]*/)?(?:llama-\w+|moe-release|hf|huggingface-cli|python3?|pip|lm_eval|vllm|ollama|sha256sum)\s)"
)


@dataclass(frozen=True)
class Line:
    """One line of running text, list or heading, or one row of a table with ` | ` between its cells; code in it stays."""

    number: int
    text: str
    cells: tuple[str, ...] = ()
    heading: bool = False
    names: tuple[str, ...] = ()
    """What stands between backquotes."""


@dataclass(frozen=True)
class Table:
    """A table: the line of its header, the header's cells, and its rows."""

    number: int
    header: tuple[str, ...]
    rows: tuple[Line, ...]


@dataclass(frozen=True)
class Code:
    """A block of code: the number of its first line, its language (may be empty) and its lines."""

    number: int
    language: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Link:
    """A link or picture."""

    number: int
    target: str


@dataclass
class Document:
    """Everything that rules look at.  `raw` holds the file's own lines; the first has number 1."""

    raw: tuple[str, ...]
    lines: list[Line] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    code: list[Code] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    repeated: dict[str, int] = field(default_factory=dict)
    """The last number behind the anchor of headings of one text; counting anew for each would be quadratic."""

    @property
    def commands(self) -> Iterator[Code]:
        """Blocks of shell commands, also those that stand as plain text in a card without markup."""
        yield from (block for block in self.code if block.language.lower() in {"", "sh", "bash", "shell", "console", "text"})
        end = 0
        for line in self.lines:
            if line.number > end and not line.cells and not line.names and COMMAND.match(line.text):
                block = Code(line.number, "sh", (line.text, *_continued(self.raw, line.number)))
                end = line.number + len(block.lines) - 1  # a line that a backslash took in begins no command
                yield block


def _continued(raw: Sequence[str], number: int) -> Iterator[str]:
    """The lines that a backslash at the end of line `number` takes in."""
    while number < len(raw) and raw[number - 1].rstrip().endswith("\\"):
        yield raw[number]
        number += 1


def read_document(path: Path) -> Document:
    """Read a card.

    Raises:
        InputError: it cannot be read, is no text, or is larger than a card can be.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > LARGEST:
        raise InputError(f"{path}: larger than {LARGEST >> 10} KiB; is it a model card?")
    try:
        return parse_document(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text") from None


def parse_document(text: str) -> Document:
    """Structure of a card by CommonMark with GitHub's tables; YAML front matter is blanked, so that line numbers stay."""
    from markdown_it import MarkdownIt

    text = text.replace("\r\n", "\n").replace("\r", "\n")
    document = Document(tuple(text.split("\n")))
    body = FRONT_MATTER.sub(lambda match: "\n" * match[0].count("\n"), text, count=1)
    tokens = MarkdownIt("commonmark", {"maxNesting": 20}).enable("table").parse(body)
    _collect(document, tokens)
    document.lines = sorted((_shortened(line) for line in document.lines), key=lambda line: line.number)
    return document


def _shortened(line: Line) -> Line:
    return line if len(line.text) <= LONGEST_LINE else replace(line, text=line.text[:LONGEST_LINE])


def _collect(document: Document, tokens: Sequence[Token]) -> None:
    heading = False
    position = 0
    while position < len(tokens):
        token = tokens[position]
        first = token.map[0] + 1 if token.map else 1
        if token.type == "table_open":
            end = next(i for i in range(position, len(tokens)) if tokens[i].type == "table_close")
            _table(document, tokens[position:end], first)
            position = end
        elif token.type == "heading_open":
            heading = True
        elif token.type == "heading_close":
            heading = False
        elif token.type == "inline":
            _inline(document, token, first, heading=heading)
        elif token.type in ("fence", "code_block"):
            language = token.info.split()[0] if token.info.split() else ""
            lines = tuple(token.content.rstrip("\n").split("\n"))
            document.code.append(Code(first + (token.type == "fence"), language, lines))
        elif token.type == "html_block":
            _html(document, token.content, first)
        position += 1


def _table(document: Document, tokens: Sequence[Token], number: int) -> None:
    rows: list[Line] = []
    cells: list[str] = []
    names: list[str] = []
    line = number
    for token in tokens:
        if token.type == "tr_open":
            cells, names, line = [], [], token.map[0] + 1 if token.map else number
        elif token.type == "inline":
            parts = list(_lines_of(document, token, line))
            cells.append(" ".join(text for _, text, _ in parts).strip())
            names += [name for _, _, found in parts for name in found]
        elif token.type == "tr_close":
            rows.append(Line(line, " | ".join(cells), tuple(cells), names=tuple(names)))
    if rows:
        document.tables.append(Table(number, rows[0].cells, tuple(rows[1:])))
        document.lines.extend(rows)


def _inline(document: Document, token: Token, first: int, *, heading: bool) -> None:
    for number, text, names in _lines_of(document, token, first):
        document.lines.append(Line(number, text, heading=heading, names=tuple(names)))
        if heading:
            document.anchors.add(_slug(text, document))


def _lines_of(document: Document, token: Token, number: int) -> Iterator[tuple[int, str, list[str]]]:
    """(line, plain text, names in backquotes) of an inline token; links are noted in the document on the way."""
    text: str = ""
    names: list[str] = []
    for child in token.children or ():
        if child.type in ("softbreak", "hardbreak"):
            yield number, text, names
            number, text, names = number + 1, "", []
        elif child.type == "code_inline":
            text += child.content
            names.append(child.content)
        elif child.type == "html_inline":
            document.links += [Link(number, target) for target in HTML_LINK.findall(child.content)]
            document.anchors.update(anchor.lower() for anchor in HTML_ANCHOR.findall(child.content))
        elif child.type in ("link_open", "image"):
            document.links.append(Link(number, str(child.attrs.get("href") or child.attrs.get("src") or "")))
            text += child.content if child.type == "image" else ""
        elif child.type == "text":
            text += child.content
    yield number, text, names


def _html(document: Document, content: str, first: int) -> None:
    for offset, line in enumerate(content.split("\n")):
        document.links += [Link(first + offset, target) for target in HTML_LINK.findall(line)]
        document.anchors.update(anchor.lower() for anchor in HTML_ANCHOR.findall(line))
    blanked = TAG.sub(lambda match: "\n" * match[0].count("\n"), content)
    document.lines += [Line(first + i, line.strip()) for i, line in enumerate(blanked.split("\n")) if line.strip()]


def _slug(text: str, document: Document) -> str:
    """The anchor that GitHub and the Hub make of a heading."""
    base = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
    number = document.repeated.get(base, 0)
    slug = f"{base}-{number}" if number else base
    while slug in document.anchors:
        number += 1
        slug = f"{base}-{number}"
    document.repeated[base] = number
    return slug
