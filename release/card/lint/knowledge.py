"""What is known beside the card: the files of its repository, and the claims that it was rendered from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from pruner.errors import InputError
from pruner.files import read_json
from release.card.lint.document import Document
from release.card.lint.finding import Finding

CONFIG = "config.json"
MOST_FILES = 100_000
DIGITS = re.compile(r"[0-9]+")
NUMBERED = re.compile(r"(?<![A-Za-z0-9])[0-9]*[N#]+(?![A-Za-z0-9])")
"""The number in `model-0000N-of-00009`."""


@dataclass(frozen=True)
class Knowledge:
    """Files by path in the repository, claims by name with value, unit and how they are shown, config.json; None: not known.

    `repositories` are the names, on the Hub, of those that the files are of.
    """

    files: frozenset[str] | None = None
    claims: Mapping[str, Mapping[str, Any]] | None = None
    config: Mapping[str, Any] | None = None
    repositories: frozenset[str] = frozenset()
    command_error: Callable[[Sequence[str]], str | None] | None = None
    """Why words are no command line of moe-release; the command line itself knows, and the lint does not import it."""

    @cached_property
    def _names(self) -> frozenset[str]:
        """File names without their folders."""
        return frozenset(file.rpartition("/")[2] for file in self.files or ())

    @cached_property
    def _folders(self) -> frozenset[str]:
        return frozenset(str(parent) for file in self.files or () for parent in PurePosixPath(file).parents)

    def has(self, name: str) -> bool:
        """Whether the repository holds a file or folder: by path, by name, or by a pattern (`model-0000N-of-00009`)."""
        path = str(PurePosixPath(name))
        if path in (self.files or ()) or path in self._folders or ("/" not in path and path in self._names):
            return True
        if "*" in path or not NUMBERED.search(path):
            return "*" in path  # a glob names no file
        alike = self._numbered.get(DIGITS.sub("#", NUMBERED.sub("#", path)), ())
        pattern = re.compile("[0-9]+".join(re.escape(part) for part in NUMBERED.split(path)))
        return any(pattern.fullmatch(file) for file in alike)

    @cached_property
    def _numbered(self) -> Mapping[str, list[str]]:
        """Paths and names by what they are without their numbers."""
        found: dict[str, list[str]] = {}
        for name in (*(self.files or ()), *self._names):
            found.setdefault(DIGITS.sub("#", name), []).append(name)
        return found


Rule = Callable[[Document, Knowledge], Iterator[Finding]]


def read_files(place: Path) -> frozenset[str]:
    """Paths of a repository: those below a folder, or one a line of a list.

    Raises:
        InputError: it does not exist or cannot be read, or names too many files.
    """
    if place.is_dir():
        found = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    else:
        try:
            found = {line.strip() for line in place.read_text(encoding="utf-8").splitlines() if line.strip()}
        except OSError as error:
            raise InputError(f"{place}: cannot be read: {error.strerror}; give a folder, or a list of files") from None
        except UnicodeDecodeError:
            raise InputError(f"{place}: is no list of files in UTF-8") from None
    if len(found) > MOST_FILES:
        raise InputError(f"{place}: names {len(found):,} files; at most {MOST_FILES:,} are taken")
    return frozenset(found)


def read_config(places: Sequence[Path]) -> Mapping[str, Any] | None:
    """The language model's part of the config.json in one of the folders, if one holds it.

    Raises:
        InputError: it is no JSON.
    """
    found = next((place / CONFIG for place in places if (place / CONFIG).is_file()), None)
    content = read_json(found, "the model's config.json") if found else None
    if not isinstance(content, dict):
        return None
    nested = content.get("text_config")
    return nested if isinstance(nested, dict) else content


def repositories_of(card: Path, claims: Mapping[str, Mapping[str, Any]] | None) -> frozenset[str]:
    """Names of the card's own repositories: as its claims give them, or as the Hub's cache names a copy's folder."""
    named = [str((claims or {}).get(f"publish.{kind}", {}).get("shown", "")) for kind in ("weights", "gguf")]
    cached = [part.removeprefix("models--").replace("--", "/", 1) for part in card.parts if part.startswith("models--")]
    return frozenset(name for name in (*named, *cached) if name.count("/") == 1)


def whole_copy(card: Path) -> list[Path]:
    """The folder of a README.md in a copy of a whole repository: only such a copy holds `.gitattributes` beside it."""
    return [card.parent] if card.name == "README.md" and (card.parent / ".gitattributes").exists() else []


def read_claims(path: Path) -> Mapping[str, Mapping[str, Any]]:
    """The claims.json of a card.

    Raises:
        InputError: it is no claims.json.
    """
    content = read_json(path, "claims.json")
    if not isinstance(content, dict) or not all(
        isinstance(claim, dict) and isinstance(claim.get("shown"), str) and isinstance(claim.get("unit"), str)
        for claim in content.values()
    ):
        raise InputError(f"{path}: is no claims.json; give the one that was written beside the card")
    return content


def claims_beside(card: Path) -> Path | None:
    """The claims.json that our own cards come with, if it is there: beside the card, or below `reproduce`."""
    places = (card.parent / "claims.json", card.parent / "reproduce" / "claims.json")
    return next((place for place in places if place.is_file()), None)
