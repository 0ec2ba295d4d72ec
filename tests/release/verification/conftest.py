"""Releases on a local Hub, published once; each test tampers with a copy of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HOME = tempfile.TemporaryDirectory(prefix="verification-tests-")
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ.setdefault("HF_HOME", HOME.name)
for name in ("HF_TOKEN", "HF_ENDPOINT", "HUGGING_FACE_HUB_TOKEN"):
    os.environ.pop(name, None)

from pruner.errors import UnavailableError  # noqa: E402
from release.gguf.toolchain import find_toolchain  # noqa: E402
from tests import shared  # noqa: E402
from tests.release.verification.releases import PublishedRelease, Stage, publish_small, published_tiny  # noqa: E402


@pytest.fixture(scope="session")
def small_release(tmp_path_factory: pytest.TempPathFactory) -> PublishedRelease:
    """Weights alone, with a pinned map."""
    return publish_small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def tiny_release(tmp_path_factory: pytest.TempPathFactory) -> PublishedRelease:
    """The committed tiny release: quants, evidence, cards."""
    try:
        find_toolchain()
    except UnavailableError as error:
        pytest.skip(f"no llama.cpp: {error}")
    return published_tiny(shared.tiny_release(tmp_path_factory))


@pytest.fixture
def small(small_release: PublishedRelease, tmp_path: Path) -> Iterator[Stage]:
    with small_release.staged(tmp_path) as stage:
        yield stage


@pytest.fixture
def tiny(tiny_release: PublishedRelease, tmp_path: Path) -> Iterator[Stage]:
    with tiny_release.staged(tmp_path) as stage:
        yield stage
