"""Places that nothing can stand at: one line of bad input from every reader and for everything that is to be written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pruner.errors import InputError
from pruner.files import read_json
from pruner.places import (
    require_file,
    require_folder_above,
    require_new,
    require_outside,
    require_replaceable,
    unreadable,
)
from pruner.safetensors_format import read_header
from pruner.sources import open_source
from pruner.statistics import read_statistics
from release.attestation.keys import read_key
from release.documents import Document, load_document
from tests.end_to_end.conftest import run_command

LONG = "n" * 300
IMPOSSIBLE = ("a\0b", LONG, f"missing/{LONG}", f"{LONG}/x", "/".join(["a" * 200] * 30), "\ud800")

TAKERS: list[Callable[[Path], object]] = [
    lambda path: require_file(path, "a file"),
    lambda path: require_new(path, "name"),
    require_replaceable,
    require_folder_above,
    lambda path: require_outside(path, Path("folder"), "the base's"),
    lambda path: read_json(path, "the map"),
    read_header,
    open_source,
    read_statistics,
    lambda path: load_document(path, Document),
    read_key,
]


@pytest.mark.parametrize("name", IMPOSSIBLE)
@pytest.mark.parametrize("take", TAKERS)
def test_a_name_that_nothing_can_have_is_one_line(tmp_path: Path, take: Callable[[Path], object], name: str) -> None:
    with pytest.raises(InputError, match=r"(zero byte|half a character|too long).*; choose another name") as error:
        take(tmp_path / name)
    assert str(error.value).isprintable()


def test_links_in_a_circle_are_one_line(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for take in TAKERS:
        for path in (loop / "x",) if take in (require_replaceable, require_folder_above) else (loop, loop / "x"):
            with pytest.raises(InputError) as error:
                take(path)
            assert str(error.value).isprintable()
    with pytest.raises(InputError, match="links lead in a circle"):
        require_outside(tmp_path / "out", loop, "the base's")


def test_what_the_system_says_of_a_name_that_grew_too_long_is_told(tmp_path: Path) -> None:
    path = tmp_path / LONG
    with pytest.raises(OSError, match="too long") as error:
        path.read_bytes()
    assert unreadable(path, error.value) == "has a name that is too long"


def test_the_longest_name_is_taken(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127 + "n")
    assert len(os.fsencode(path.name)) == 255
    require_new(path, "name")
    path.write_bytes(b"{}")
    assert read_json(path, "the map") == {}


@pytest.mark.parametrize(
    "words",
    [("check", LONG), ("diff", LONG, LONG), ("card", "--lint", LONG), ("diff", "loop/x", "loop/x"), ("prune", *(LONG,) * 3)],
)
def test_a_command_ends_as_for_any_bad_input(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    done = run_command(words[0], *(each if each.startswith("-") else tmp_path / each for each in words[1:]), check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("moe-release: ")
