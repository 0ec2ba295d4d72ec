"""The hooks of .pre-commit-config.yaml: each tool runs, finds nothing in the tree, and would find a slip."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

CONFIG = ROOT / ".pre-commit-config.yaml"
HOOKS: dict[str, dict[str, Any]] = {
    hook["id"]: hook for repo in yaml.safe_load(CONFIG.read_text())["repos"] for hook in repo["hooks"]
}
TOOLS = Path(sys.executable).parent
SLIPS = {
    "format": ("slip.py", "x = {  'a':1 }\n"),
    "lint": ("slip.py", "import os\n"),
    "shell": ("slip.sh", '#!/bin/sh\nrm $1 "$(ls)"\n'),
}
CLEAN = {"format": ["release/cli.py"], "lint": ["release/cli.py"], "shell": [".github/scripts/verify.sh", ".ci/run"]}


def run(hook: str, files: list[str]) -> subprocess.CompletedProcess[str]:
    """What pre-commit would run for these files, with the tools of this environment."""
    words = shlex.split(HOOKS[hook]["entry"])
    words[0] = words[0].replace(".venv/bin", str(TOOLS))
    return subprocess.run([*words, *files], cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_hook_runs_a_tool_of_the_environment_or_make() -> None:
    assert set(HOOKS) == {"format", "lint", "types", "shell", "workflows", "pages"}
    for hook in HOOKS.values():
        words = shlex.split(hook["entry"])
        assert hook["language"] == "system"
        assert words[0] == "make" or (TOOLS / Path(words[0]).name).is_file()


@pytest.mark.parametrize("hook", CLEAN)
def test_a_hook_finds_nothing_here_and_something_in_a_slip(hook: str, tmp_path: Path) -> None:
    done = run(hook, CLEAN[hook])
    assert done.returncode == 0, done.stdout + done.stderr
    name, text = SLIPS[hook]
    (tmp_path / name).write_text(text)
    changed = run(hook, [str(tmp_path / name)])
    assert changed.returncode != 0 or (tmp_path / name).read_text() != text, "pre-commit fails when a hook changes a file"


def test_the_workflows_are_sound() -> None:
    assert run("workflows", []).returncode == 0


@pytest.mark.slow
def test_the_types_are_sound() -> None:
    done = run("types", [])
    assert done.returncode == 0, done.stdout


def test_the_generated_page_is_up_to_date() -> None:
    """`make docs` as the hook calls it, written to the screen instead of over the page."""
    words = [*shlex.split(HOOKS["pages"]["entry"]), "--dry-run", "--old-file=setup"]
    shown = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    command, _, target = shown.partition(" > ")
    assert target.split() == ["docs/manifest.md.tmp", "&&", "mv", "docs/manifest.md.tmp", "docs/manifest.md"]
    page = subprocess.run(
        [sys.executable, "-m", "release", *command.split()[1:]], cwd=ROOT, capture_output=True, check=True
    ).stdout
    assert page == (ROOT / "docs/manifest.md").read_bytes()


@pytest.mark.parametrize("hook", [each for each in HOOKS.values() if "files" in each], ids=lambda hook: hook["id"])
def test_a_pattern_of_files_matches_some(hook: dict[str, Any]) -> None:
    files = [path.relative_to(ROOT).as_posix() for top in (".github", "release", "docs") for path in (ROOT / top).rglob("*")]
    assert any(re.search(hook["files"], each) for each in files)


@pytest.mark.skipif(importlib.util.find_spec("pre_commit") is None, reason="pre-commit is not installed")
def test_pre_commit_reads_its_configuration() -> None:
    done = subprocess.run([sys.executable, "-m", "pre_commit", "validate-config", CONFIG], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
