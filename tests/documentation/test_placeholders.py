"""Every command of the documentation that has placeholders runs with them filled in."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.documentation.examples import NOT_RUN, Examples
from tests.documentation.pages import PAGES, commands, name

pytestmark = [pytest.mark.llama, pytest.mark.slow]


@pytest.mark.parametrize("page", [page for page in PAGES if any(each.placeholders for each in commands(page))], ids=name)
def test_every_command_runs_with_its_placeholders_filled_in(page: Path, examples: Examples) -> None:
    for command in commands(page):
        if not command.placeholders or shlex.join(command.words) in NOT_RUN:
            continue
        result = examples.run(command)
        assert result.returncode == 0, f"{name(page)}:{command.line}: {result.stdout}\n{result.stderr}"
