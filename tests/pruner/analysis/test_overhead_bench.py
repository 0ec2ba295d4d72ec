"""The benchmark of what measuring costs runs, and says by its exit code whether it is too much; no test asks how much it is."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT

from .conftest import PROGRAM

pytest.importorskip("transformers", reason="needs the analysis extra")
pytestmark = pytest.mark.torch


@pytest.mark.parametrize(("most", "code"), [("1000000", 0), ("0", 1)])
def test_the_benchmark_compares_with_the_models_default(most: str, code: int) -> None:
    command = [
        sys.executable,
        "bench/experts_overhead.py",
        "--scale",
        "0.001",
        "--tokens",
        "8",
        "--rounds",
        "1",
        "--most",
        most,
    ]
    result = subprocess.run(command, cwd=ROOT, env=PROGRAM, capture_output=True, text=True, check=False)
    assert result.returncode == code, result.stderr
    default, eager, measured = result.stdout.splitlines()
    assert default.startswith("default (")
    assert "(None)" not in default
    assert default.endswith("ratio 1.000")
    assert (eager.split()[0], measured.split()[0]) == ("eager", "measured")
