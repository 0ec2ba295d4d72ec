"""The real act, without Docker: jobs run on this machine in a copy of the tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from release.gguf.toolchain import cache_folder
from tests.conftest import ROOT

RUNNERS = ("ubuntu-latest", "ubuntu-24.04-arm")


@dataclass(frozen=True)
class Run:
    """What act reported: its exit code, and each job's lines, summaries and outputs."""

    returncode: int
    log: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """Act's own log."""
        return [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]

    @property
    def lines(self) -> list[str]:
        """What the steps printed."""
        return [str(record["msg"]).rstrip("\n") for record in self.records if record.get("raw_output")]

    @property
    def outputs(self) -> dict[str, str]:
        """What the steps handed on, by name."""
        return {str(each["name"]): str(each["arg"]) for each in self.records if each.get("command") == "set-output"}

    @property
    def summary(self) -> str:
        """What the steps wrote for the reader of the run."""
        return "\n".join(str(each["content"]) for each in self.records if each.get("command") == "summary")


Act = Callable[..., Run]


@pytest.fixture
def command(tmp_path: Path) -> Path:
    """A moe-release that runs the code of the folder it is started in: in act's copy, that copy's."""
    path = tmp_path / "moe-release"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m release "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def act(tmp_path: Path, command: Path) -> Act:
    """Run one workflow: `act("ci", "push", SLICE="tests/x.py")`; keywords are the steps' environment."""

    def run(workflow: str, event: str, *, inputs: dict[str, str] | None = None, **environment: str) -> Run:
        words = [Path(sys.executable).with_name("act"), event, "--json", "--cache-server-addr", "127.0.0.1"]
        words += ["-W", ROOT / ".github" / "workflows" / f"{workflow}.yml"]
        words += [word for runner in RUNNERS for word in ("-P", f"{runner}=-self-hosted")]
        words += [word for name, value in (inputs or {}).items() for word in ("--input", f"{name}={value}")]
        cache = str(cache_folder())  # act gets a cache of its own, the toolchain stays where it is
        passed = {
            "MOE_RELEASE": str(command),
            "MOE_RELEASE_CACHE": cache,
            "PYTHON": sys.executable,
            "NO_COLOR": "1",
            **environment,
        }
        passed |= {name: value for name, value in os.environ.items() if name.startswith("MOE_RELEASE_LLAMA")}
        words += [word for name, value in passed.items() for word in ("--env", f"{name}={value}")]
        result = subprocess.run(
            [str(word) for word in words],
            cwd=ROOT,
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=800,
        )
        return Run(result.returncode, result.stdout)

    return run
