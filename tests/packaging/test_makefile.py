"""The set-up of `make`, as far as it can be tested without installing everything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize("begun", [True, False], ids=["an environment without pip", "none"])
def test_an_environment_that_was_left_unfinished_gets_its_pip(tmp_path: Path, *, begun: bool) -> None:
    """Debian's python3 without python3-venv, for one, leaves an interpreter and no pip."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    if begun:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True)
    words = ["make", "--no-print-directory", "--dry-run", "setup", f"PYTHON={sys.executable}"]
    alone = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    shown = subprocess.run(words, cwd=tmp_path, env=alone, capture_output=True, text=True, check=True).stdout
    first, second, *_ = shown.splitlines()
    assert second.startswith(".venv/bin/pip ")
    subprocess.run(["sh", "-c", first], cwd=tmp_path, check=True)
    assert (tmp_path / ".venv/bin/pip").is_file()
