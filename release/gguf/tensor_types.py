"""A tensor_types file: which tensor gets which ggml type in a custom mix, as `llama-quantize --tensor-type-file` reads it.

Words of the form `pattern=type`, one a line or separated by spaces.  llama-quantize searches the pattern, a regular expression,
in a tensor's name; the first that is found counts.  It also accepts a misspelt pattern without a word, which is why the file is
checked here first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pruner.errors import InputError
from release.gguf.types import BY_NAME, nearest

MAXIMUM_BYTES = 4 << 20
MAXIMUM_RULES = 4096
MAXIMUM_PATTERN = 200
LONGEST_NAME = 64
"""Characters of a tensor's name in ggml."""
MAXIMUM_WAYS = 1 << 22
"""Bound of the ways in which a pattern can be laid over a name.  Regular expressions, Python's and llama-quantize's, try them
one by one: four million take a second or less, and a pattern with thirty repeats would never end."""
_ATOM = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?.?|\{[^}]*\}|.", re.DOTALL)
"""An escape, a class of characters, the beginning of a special group, a counted repeat, or one character."""
USABLE = sorted(name for name, kind in BY_NAME.items() if kind.quantized or name in {"F32", "F16", "BF16"})


@dataclass(frozen=True)
class TensorTypeRule:
    """One `pattern=type` and the line it stands in."""

    pattern: str
    type: str
    line: int


def read_tensor_types(path: Path) -> tuple[TensorTypeRule, ...]:
    """Read and check a tensor_types file.

    Raises:
        InputError: unreadable, wrong syntax, unknown ggml type, bad pattern or one that stands twice; with the line number.
    """
    rules: list[TensorTypeRule] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(_read(path).splitlines(), start=1):
        for word in line.split():
            rule = _rule(path, number, word)
            if rule.pattern in seen:
                raise InputError(f"{path}:{number}: {rule.pattern!r} stands in line {seen[rule.pattern]} already")
            seen[rule.pattern] = number
            rules.append(rule)
            if len(rules) > MAXIMUM_RULES:
                raise InputError(f"{path}:{number}: more than {MAXIMUM_RULES} rules; let a pattern stand for several tensors")
    if not rules:
        raise InputError(f"{path}: holds no `tensor=type` line")
    return tuple(rules)


def assign(path: Path, rules: Iterable[TensorTypeRule], names: Iterable[str]) -> Mapping[str, TensorTypeRule]:
    """The rule that llama-quantize applies to each tensor, by tensor name.

    Raises:
        InputError: a rule matches no tensor of the model, so it is meant for another one or misspelt.
    """
    names = list(names)
    assigned: dict[str, TensorTypeRule] = {}
    for rule in rules:
        matching = [name for name in names if re.search(rule.pattern, name)]
        if not matching:
            raise InputError(f"{path}:{rule.line}: the model has no tensor that matches {rule.pattern!r}")
        for name in matching:
            assigned.setdefault(name, rule)
    return assigned


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAXIMUM_BYTES:
            raise InputError(f"{path}: larger than {MAXIMUM_BYTES >> 20} MiB; this is no tensor_types file")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: tensor_types file cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: tensor_types file is not UTF-8 text") from None


def _rule(path: Path, number: int, word: str) -> TensorTypeRule:
    pattern, separator, kind = word.partition("=")
    if not separator or not pattern or not kind:
        raise InputError(f"{path}:{number}: {word!r} is not of the form tensor=type (llama-quantize knows no comments)")
    if kind.upper() not in USABLE:
        raise InputError(f"{path}:{number}: ggml has no type {kind!r}{nearest(kind, USABLE)}")
    pattern = pattern.lower()  # as llama-quantize does; every tensor name is lower case
    if reason := _too_costly(pattern):
        raise InputError(f"{path}:{number}: {pattern[:60]!r} {reason}; write a simpler pattern, or one line a tensor")
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(f"{path}:{number}: {pattern!r} is not a regular expression: {error}") from None
    return TensorTypeRule(pattern, kind.upper(), number)


def _too_costly(pattern: str) -> str:
    """Why a pattern is not tried, or nothing: matching must end soon whatever a file holds, here and in llama-quantize."""
    if len(pattern) > MAXIMUM_PATTERN:
        return f"is longer than {MAXIMUM_PATTERN} characters"
    atoms = _ATOM.findall(pattern)
    for before, atom in zip(["", *atoms], atoms, strict=False):
        if atom.startswith("(?") and atom != "(?:":
            return "uses a group that llama-quantize's regular expressions do not have"
        if atom[0] == "\\" and atom[1:].isdigit():
            return "refers back to a group"
        if before == ")" and atom[0] in "*+{":
            return "repeats a group"
        if atom[0] == "{" and any(len(digits) > 2 for digits in re.findall(r"\d+", atom)):  # noqa: PLR2004
            return f"repeats more often than a name has characters ({LONGEST_NAME})"
    return "has too many repeats and alternatives" if _ways(atoms) > MAXIMUM_WAYS else ""


def _ways(atoms: list[str]) -> int:
    """Bound of the ways to lay a pattern over a name: where it starts, how long each repeat is, which alternative is taken."""
    ways, branches = LONGEST_NAME, [1]
    for atom in atoms:
        if atom[0] == "(":
            branches.append(1)
        elif atom == "|":
            branches[-1] += 1
        elif atom == ")" and len(branches) > 1:
            ways *= branches.pop()
        elif atom[0] in "*+{":
            ways *= LONGEST_NAME
        elif atom == "?":
            ways *= 2
    return ways * math.prod(branches)
