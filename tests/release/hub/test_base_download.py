"""A base that an analysis needs whole is downloaded; what breaks that is one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from release.hub.local import LocalHub
from tests.conftest import ROOT, CheckpointFactory
from tests.release.hub.releases import CARD, Faults
from tests.release.hub.remote.repositories import upload

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MANIFEST = """schema: moe-release/v1
name: x
base: {{repo: org/base, revision: {commit}}}
prune: {{experts: 4, analysis: {{dataset: {{path: q.jsonl, sha256: {digest}}}}}, ranking: {{method: coverage}}}}
"""
DOWNLOAD = """
import sys
from pathlib import Path
from pruner.errors import UnavailableError
from release.base import base_folder
from release.manifest import load_manifest
try:
    print(base_folder(load_manifest(Path(sys.argv[1]))))
except UnavailableError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("broken", [False, True])
def test_a_base_is_there_whole_or_one_line_says_why_not(
    faulty: LocalHub, faulty_api: HfApi, faults: Faults, make_checkpoint: CheckpointFactory, tmp_path: Path, broken: bool
) -> None:
    base = make_checkpoint()
    (base / "README.md").write_text(CARD)
    commit = upload(faulty_api, "org/base", base)
    (tmp_path / "x.yaml").write_text(MANIFEST.format(commit=commit, digest="a" * 64))
    faults.cuts = lambda method, path: broken and method == "GET" and path.startswith("/objects/")
    environment = {**os.environ, **faulty.environment(), "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", DOWNLOAD, str(tmp_path / "x.yaml")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if broken:
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith(f"base org/base@{commit[:12]}: the connection to {faulty.endpoint} ")
        assert "Traceback" not in done.stderr
    else:
        assert Path(done.stdout.strip()).name == commit, done.stderr
