"""Every command of the documentation runs, word by word where it has no placeholders."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.documentation.pages import PAGES, SHOWN, commands, name
from tests.documentation.sandbox import Sandbox

pytestmark = [pytest.mark.llama, pytest.mark.slow]
FLOATING = ("comparing with the unquantized model", "evaluating", "writing the report", "locking digests")
"""Stages whose line another processor may change."""


@pytest.mark.parametrize("page", [page for page in PAGES if not all(each.placeholders for each in commands(page))], ids=name)
def test_every_command_runs(page: Path, sandbox: Sandbox) -> None:
    for command in commands(page):
        if not command.placeholders:
            result = sandbox.run(*command.words[1:])
            assert result.returncode == 0, f"{name(page)}:{command.line}: {result.stdout}\n{result.stderr}"


def test_the_readme_shows_what_a_run_says(sandbox: Sandbox) -> None:
    """But for times, commit ids, and figures that another processor may change; those are the golden card's."""
    said = dict(re.findall(r"^✓ (.+?)  +[0-9.]+ s  (.*)$", sandbox.cut, re.MULTILINE))
    assert set(SHOWN) <= set(said)
    for title, detail in SHOWN.items():
        if title not in FLOATING:
            parts = re.split(r"@[0-9a-f]{12}|…| \(cache\)", detail)
            assert [each for each in parts if each.strip(" ,") not in said[title]] == [], f"{title}: {said[title]}"
