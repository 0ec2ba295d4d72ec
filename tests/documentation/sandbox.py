"""A folder in which the commands of the pages run."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT


@dataclass(frozen=True)
class Sandbox:
    """A folder and the environment that the commands get."""

    folder: Path
    environment: dict[str, str]
    cut: str = ""
    """What the cut of the tiny release showed, where this is the folder that holds it."""

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One moe-release command, as a reader would type it."""
        return self._run([sys.executable, "-m", "release", *words])

    def expect(self, *words: str) -> str:
        """One moe-release command that has to succeed; returns what it showed on the way."""
        result = self.run(*words)
        assert result.returncode == 0, f"{shlex.join(words)}: {result.stdout}\n{result.stderr}"
        return result.stderr

    def shell(self, line: str) -> subprocess.CompletedProcess[str]:
        """One line for a shell."""
        return self._run(["sh", "-c", line])

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **self.environment}
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=1700
        )
