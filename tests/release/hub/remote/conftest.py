"""A Hub with faults before its downloads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from release.hub.local import LocalHub
from release.hub.server.call import Settings
from tests.conftest import CheckpointFactory
from tests.release.hub.remote.repositories import CARD, Faults


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def hub(tmp_path: Path, faults: Faults) -> Iterator[LocalHub]:
    with LocalHub(tmp_path / "hub", wrap=faults, settings=Settings(page_size=3)) as running:
        yield running


@pytest.fixture
def base(make_checkpoint: CheckpointFactory) -> Path:
    folder = make_checkpoint()
    (folder / "README.md").write_text(CARD)
    return folder
