"""What all workers of a test run share: whoever needs it first makes it, and everybody works on copies."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MANIFESTS, ROOT

TINY = "tiny-gemma4-4e"
COMMAND = ("cut", f"manifests/{TINY}.yaml", "--hub", "local")
"""The first command of the README."""


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that `make` fills once in a run of the tests, however many workers ask for it; nobody may change it."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # each worker has a folder in it
    made = base / f"shared-{name}"
    with (base / f"shared-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            making = base / f"making-{name}"
            shutil.rmtree(making, ignore_errors=True)  # of one that failed
            making.mkdir()
            make(making)
            making.rename(made)
    return made


@dataclass(frozen=True)
class TinyRelease:
    """The committed manifest of the tiny release, cut from nothing to the local Hub."""

    folder: Path

    @property
    def summary(self) -> dict[str, Any]:
        """What the command printed with --json."""
        found: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return found

    @property
    def shown(self) -> str:
        """What it said on the way."""
        return (self.folder / "shown.txt").read_text()

    def copy(self, target: Path) -> None:
        """Put manifests/, build/hub/ and build/tiny-gemma4-4e/ into an empty folder, as the command left them."""
        for name in ("manifests", "build"):
            shutil.copytree(self.folder / name, target / name, ignore=shutil.ignore_patterns(".lock"))


def tiny_release(factory: pytest.TempPathFactory) -> TinyRelease:
    """The tiny release of this run of the tests."""
    return TinyRelease(made_once(factory, "tiny-release", _cut))


def _cut(folder: Path) -> None:
    shutil.copytree(MANIFESTS, folder / "manifests")
    words = [Path(sys.executable).with_name("moe-release"), *COMMAND, "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    (folder / "summary.json").write_text(done.stdout)
    (folder / "shown.txt").write_text(done.stderr)
