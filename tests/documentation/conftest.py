"""Where the pages' commands run: a folder with the manifests, a finished tiny release, and a Hub that holds it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from release.hub.local import LocalHub
from tests.documentation.examples import Examples, prepare
from tests.documentation.sandbox import Sandbox
from tests.shared import tiny_release


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    made, folder = tiny_release(tmp_path_factory), tmp_path_factory.mktemp("pages")
    made.copy(folder)
    key = ed25519.Ed25519PrivateKey.generate()
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    shutil.copytree(folder / "build/hub", folder / "served")
    with LocalHub(folder / "served") as hub:
        yield Sandbox(folder, hub.environment(), made.shown)


@pytest.fixture(scope="session")
def prepared(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the placeholders stand for; never changed."""
    folder = tmp_path_factory.mktemp("prepared") / "all"
    folder.mkdir()
    prepare(sandbox, folder)
    return folder


@pytest.fixture
def examples(prepared: Path, tmp_path: Path) -> Iterator[Examples]:
    """A copy that a page's commands may change."""
    folder = tmp_path / "page"
    shutil.copytree(prepared, folder)
    with ExitStack() as exits:
        hub = exits.enter_context(LocalHub(folder / "hub"))
        yield Examples(Sandbox(folder, {**hub.environment(), "HF_HOME": str(tmp_path / "home")}), hub, exits)
