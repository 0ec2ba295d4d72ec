"""Each benchmark runs, as `make bench` calls it, at a scale that measures nothing."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SAID = {
    "bench/prune_speed.py": ("prune / (cp + openssl)", "tensors / (prune)", "plan: "),
    "bench/gguf_cut.py": ("cut / (cp + openssl)", "8 quants: ", "bytes equal: True"),
    "bench/experts_overhead.py": ("eager", "measured"),
}


def commands() -> dict[str, list[str]]:
    """What `make bench` runs when everything is set up, by script."""
    words = ["make", "--dry-run", "--old-file=setup", "--old-file=toolchain", "bench", "SCALE=0.001", "ROUNDS=1", "MOST=1e9"]
    shown = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = [shlex.split(line) for line in shown.splitlines() if "bench/" in line]
    return {line[1]: [sys.executable, *line[1:]] for line in lines}


def test_make_bench_runs_all_of_them() -> None:
    assert set(commands()) == {path.relative_to(ROOT).as_posix() for path in (ROOT / "bench").glob("*.py")} == set(SAID)


@pytest.mark.llama
@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("script", SAID)
def test_a_benchmark_runs(script: str) -> None:
    done = subprocess.run(
        commands()[script], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [each for each in SAID[script] if each not in done.stdout] == []
