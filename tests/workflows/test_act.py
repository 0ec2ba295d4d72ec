"""The workflows under the real act."""

from __future__ import annotations

from tests.workflows.conftest import Act

SLICE = "tests/pruner/test_drop_map.py"


def test_ci_runs_a_slice(act: Act) -> None:
    run = act("ci", "push", SLICE=SLICE)
    assert run.returncode == 0, run.log
    assert any(" passed in " in line for line in run.lines), run.log


def test_ci_fails_with_its_tests(act: Act) -> None:
    run = act("ci", "push", SLICE="tests/no_such_test.py")
    assert run.returncode != 0
    assert any("no_such_test.py" in line for line in run.lines)
