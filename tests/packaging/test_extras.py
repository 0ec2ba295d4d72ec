"""The base install and each extra bring what the modules that belong to them import."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from release.extras import MODULES
from release.gguf.convert import NEEDED_PACKAGES
from tests.conftest import ROOT

pytestmark = pytest.mark.torch  # which package brings a module is read from what is installed, with every extra

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
EXTRA_OF = {
    "pruner/analysis/": "analysis",
    "pruner/chat_prompts.py": "analysis",
    "release/stages/analyze.py": "analysis",
    "release/evaluation/": "eval",
    "release/attestation/": "attest",
}
"""Modules that only an extra needs; all others must run without any."""
DOES_WITHOUT = {"hf-xet"}
"""huggingface_hub brings it where it exists; without it the local Hub says so."""
FILES = sorted(path for package in ("release", "pruner") for path in (ROOT / package).rglob("*.py"))
DISTRIBUTIONS = packages_distributions()


def name(requirement: str) -> str:
    """The normalized name of what a requirement names."""
    found = re.match(r"[\w.-]+", requirement)
    assert found
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def required(extra: str | None) -> set[str]:
    return {name(each) for each in [*PROJECT["dependencies"], *(EXTRAS[extra] if extra else ())]}


def foreign(text: str) -> set[str]:
    """Packages of others that a module imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
    return {each for each in found if each not in sys.stdlib_module_names and each not in {"release", "pruner"}}


def missing(packages: set[str], extra: str | None) -> list[str]:
    """Packages that an installation with this extra need not have."""
    known = required(extra) | DOES_WITHOUT
    return sorted(each for each in packages if not {name(one) for one in DISTRIBUTIONS.get(each, ())} & known)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_extra_installs_what_its_modules_import(path: Path) -> None:
    place = path.relative_to(ROOT).as_posix()
    extra = next((extra for begin, extra in EXTRA_OF.items() if place.startswith(begin)), None)
    assert missing(foreign(path.read_text()), extra) == []


def test_a_package_that_no_requirement_names_would_be_found() -> None:
    assert missing(foreign("def f():\n    import torch\n    from numpy import typing\n"), None) == ["torch"]
    assert missing(foreign("import torch, lm_eval"), "analysis") == ["lm_eval"]


def test_what_is_asked_for_before_work_begins_comes_with_the_extra_that_the_message_names() -> None:
    assert [missing(set(modules), extra) for extra, modules in MODULES.items()] == [[] for _ in MODULES]
    assert missing(set(NEEDED_PACKAGES), "analysis") == []


def test_development_has_every_extra() -> None:
    makefile = (ROOT / "Makefile").read_text()
    installed = re.search(r"--editable '\.\[([\w,]+)\]'", makefile)
    assert installed
    assert "moe-release[attest]" in EXTRAS["dev"]
    assert {*installed[1].split(","), "attest"} == set(EXTRAS)


def test_every_requirement_has_a_lowest_version_and_the_newest_is_pinned() -> None:
    pinned = {name(line) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    runtime = [*PROJECT["dependencies"], *EXTRAS["analysis"], *EXTRAS["attest"], *EXTRAS["eval"]]
    assert [each for each in runtime if ">=" not in each] == []
    assert {name(each) for each in [*runtime, *EXTRAS["dev"]]} - pinned <= {"moe-release"}


def test_what_moves_numbers_is_tested_with_the_lowest_version_that_is_allowed() -> None:
    """Environments with other versions of these would each be gigabytes; of the other requirements test_wheel.py makes one."""
    pins = {
        name(line): line.split("==")[1].strip() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    }
    allowed = {name(each): each.split(">=")[1].split(",")[0] for each in [*EXTRAS["analysis"], *EXTRAS["eval"]]}
    assert allowed == {each: pins[each] for each in allowed}
