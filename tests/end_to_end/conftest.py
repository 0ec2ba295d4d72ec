"""One real release of the tiny model, cut once for all tests that look at it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pruner.errors import UnavailableError
from release.gguf.toolchain import find_toolchain
from tests.conftest import MANIFESTS
from tests.shared import TINY, tiny_release

MANIFEST = "tiny-gemma4-4e.yaml"
COMMAND = Path(sys.executable).with_name("moe-release")


def run_command(*words: str | Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real console script in a child process."""
    result = subprocess.run(
        [str(COMMAND), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=1700,
        env={**os.environ, **environment},
    )
    if check and result.returncode:
        pytest.fail(f"{' '.join(map(str, words))}: exit code {result.returncode}\n{result.stdout}\n{result.stderr}")
    return result


@dataclass(frozen=True)
class Release:
    """Where a release was cut, and what the command printed."""

    manifests: Path
    work: Path
    hub: Path
    summary: dict[str, Any]

    @property
    def manifest(self) -> Path:
        return self.manifests / MANIFEST

    def cut(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run_command("cut", self.manifest, "--work", self.work, "--hub", "local", *words, check=check)

    def status(self, stage: str) -> str:
        return next(each["status"] for each in self.summary["stages"] if each["stage"] == stage)


@pytest.fixture(scope="session", autouse=True)
def _toolchain() -> None:
    try:
        find_toolchain()
    except UnavailableError as error:
        pytest.skip(f"no llama.cpp: {error}")


def copy_manifests(target: Path) -> Path:
    shutil.copytree(MANIFESTS, target)
    return target


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The committed manifest, cut from nothing to the local Hub: a copy for the tests of this worker."""
    made, folder = tiny_release(tmp_path_factory), tmp_path_factory.mktemp("release")
    made.copy(folder)
    return Release(folder / "manifests", folder / "build" / TINY, folder / "build" / "hub", made.summary)
