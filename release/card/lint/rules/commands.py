"""Commands that name files which the repository does not hold and no command before them made."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from release.card.lint.document import COMMAND, LONGEST_LINE, Code, Document
from release.card.lint.finding import Finding
from release.card.lint.knowledge import Knowledge
from release.card.lint.rules.files import CHECKOUTS, NAME

KIND = "command"
OUTPUTS = frozenset(
    {"-o", "--out", "--output", "--outfile", "--output-file", "--output_path", "--output-dir", "--local-dir", ">"}
)
FETCH = re.compile(r"^(?:\$ )?(?:hf|huggingface-cli|wget|curl|git)\s")
QUANTIZE = "llama-quantize"
SEPARATORS = frozenset({"&&", "||", ";", "|"})


@dataclass
class Shell:
    """Where a block of commands stands, and what it has made."""

    folder: str = ""
    made: set[str] = field(default_factory=set)

    def place(self, name: str) -> str:
        """A name as a path of the repository; of one that leads out of it, what is left of it."""
        return posixpath.normpath(posixpath.join(self.folder, name)).removeprefix("../")


def find(document: Document, knowledge: Knowledge) -> Iterator[Finding]:
    """Only where the files are known."""
    if knowledge.files is None:
        return
    shell = Shell()
    for block in document.commands:
        shell.folder = ""
        for number, line in logical_lines(block):
            yield from _check(number, line, shell, knowledge)


def logical_lines(block: Code) -> Iterator[tuple[int, str]]:
    """Lines joined over backslashes, with the number of their first."""
    text, first = "", block.number
    for offset, line in enumerate(block.lines):
        first = first if text else block.number + offset
        text = f"{text} {line.rstrip().removesuffix(chr(92))}".strip()
        if not line.rstrip().endswith("\\") or len(text) > LONGEST_LINE:
            yield first, text
            text = ""
    if text:
        yield first, text


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line.removeprefix("$ "), comments=True)
    except ValueError:
        return line.split()


def simple_commands(line: str) -> Iterator[list[str]]:
    """Words of each command of a line, without `&&`, `;` and pipes."""
    command: list[str] = []
    for word in [*_words(line), ";"]:
        if word not in SEPARATORS:
            command.append(word)
            continue
        if command:
            yield command
        command = []


def _check(number: int, line: str, shell: Shell, knowledge: Knowledge) -> Iterator[Finding]:
    for command in simple_commands(line):
        if command[0] == "cd":
            shell.folder = posixpath.join(shell.folder, command[1]) if len(command) > 1 else ""
        elif _is_command(command):
            yield from _command(number, command, shell, knowledge)


def _is_command(words: list[str]) -> bool:
    return bool(COMMAND.match(" ".join(words) + " ")) or words[0] in ("bash", "sh") or "/" in words[0]


def _command(number: int, words: list[str], shell: Shell, knowledge: Knowledge) -> Iterator[Finding]:
    fetched = bool(FETCH.match(" ".join(words)))
    positional = 0
    for before, word in zip(["", *words], words, strict=False):
        value = word.partition("=")[2] if word.startswith("--") and "=" in word else word
        positional += not word.startswith("-") and not before.startswith("-")
        makes = fetched or before in OUTPUTS or word.partition("=")[0] in OUTPUTS
        makes = makes or (words[0].endswith(QUANTIZE) and positional == 3 and "." in word)  # noqa: PLR2004  # tool, input, output
        if makes:
            shell.made.update({shell.place(value), posixpath.basename(value)})
        elif (match := NAME.fullmatch(value)) is not None:
            name = shell.place(match["name"])
            if not value.startswith(CHECKOUTS) and name not in shell.made and not knowledge.has(name):
                yield Finding(number, KIND, f"{words[0]} is given {value}, which the repository does not hold")
