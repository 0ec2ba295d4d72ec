"""Where the pages' commands run: a folder with the manifests, a finished tiny release, and a Hub that holds it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from release.hub.local import LocalHub
from tests.conftest import MANIFESTS, ROOT


@dataclass(frozen=True)
class Sandbox:
    """A folder and the environment that the commands get."""

    folder: Path
    environment: dict[str, str]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One moe-release command, as a reader would type it."""
        command = [sys.executable, "-m", "release", *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **self.environment}
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=600
        )


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("pages")
    shutil.copytree(MANIFESTS, folder / "manifests")
    first = Sandbox(folder, {})
    result = first.run("cut", "manifests/tiny-gemma4-4e.yaml", "--hub", "local")
    assert result.returncode == 0, result.stdout + result.stderr
    key = ed25519.Ed25519PrivateKey.generate()
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    shutil.copytree(folder / "build/hub", folder / "served")
    with LocalHub(folder / "served") as hub:
        yield Sandbox(folder, hub.environment())
