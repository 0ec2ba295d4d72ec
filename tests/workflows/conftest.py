"""The real act, without Docker: jobs run on this machine in a copy of the tree."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from release.gguf.toolchain import cache_folder
from tests.conftest import ROOT
from tests.ports import unasked_port

RUNNERS = ("ubuntu-latest", "ubuntu-24.04-arm")
WORKFLOWS = ROOT / ".github" / "workflows"
UPLOAD = Path(__file__).parent / "upload_artifact"
SCRIPTS = ROOT / ".github" / "scripts"
Script = Callable[..., subprocess.CompletedProcess[str]]


def stand_in(workflow: Path) -> list[str]:
    """The option that lets act take the tests' own action instead of fetching GitHub's."""
    used = re.findall(r"actions/upload-artifact@[0-9a-f]{40}", workflow.read_text())
    return [word for each in used for word in ("--local-repository", f"{each}={UPLOAD}")]


@dataclass(frozen=True)
class Run:
    """What act reported: its exit code, each job's lines, summaries and outputs, and the artifacts that it holds."""

    returncode: int
    log: str
    kept: Path
    """Where act's artifact server stores what the steps upload."""

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

    def artifact(self, name: str) -> dict[str, bytes]:
        """The files of an artifact, by their path in it."""
        archive = zipfile.ZipFile(io.BytesIO(next(self.kept.glob(f"*/{name}/*.zip")).read_bytes()))
        return {each: archive.read(each) for each in archive.namelist()}


Act = Callable[..., Run]


@pytest.fixture
def command(tmp_path: Path) -> Path:
    """A moe-release that runs the code of the folder it is started in: in act's copy, that copy's."""
    path = tmp_path / "moe-release"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m release "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def script(tmp_path: Path, command: Path) -> Script:
    """Run one script with no runner at all: `script("cards", MANIFESTS="…")`; keywords are its environment."""

    def run(name: str, **environment: str) -> subprocess.CompletedProcess[str]:
        given = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")}
        given |= {"MOE_RELEASE": str(command), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
        given |= {"WORK": str(tmp_path / "works"), "ARTIFACTS": str(tmp_path / "kept"), **environment}
        return subprocess.run([SCRIPTS / f"{name}.sh"], env=given, capture_output=True, text=True, check=False, timeout=1700)

    return run


@pytest.fixture
def act(tmp_path: Path, command: Path) -> Act:
    """Run one workflow: `act("ci", "push", SLICE="tests/x.py")`; keywords are the steps' environment."""

    def run(
        workflow: str,
        event: str,
        *,
        inputs: dict[str, str] | None = None,
        secrets: dict[str, str] | None = None,
        matrix: str | None = None,
        **environment: str,
    ) -> Run:
        path, kept = WORKFLOWS / f"{workflow}.yml", tmp_path / "artifacts"
        words: list[object] = [Path(sys.executable).with_name("act"), event, "--json", "-W", path]
        words += ["--cache-server-addr", "127.0.0.1", "--artifact-server-addr", "127.0.0.1"]
        words += ["--artifact-server-port", unasked_port(), "--artifact-server-path", kept, *stand_in(path)]
        words += [word for runner in RUNNERS for word in ("-P", f"{runner}=-self-hosted")]
        words += [word for name, value in (inputs or {}).items() for word in ("--input", f"{name}={value}")]
        words += [word for name in secrets or {} for word in ("--secret", name)]  # values come from act's environment
        words += ["--matrix", matrix] if matrix else []
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
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), **(secrets or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=1700,
        )
        return Run(result.returncode, result.stdout, kept)

    return run
