"""Clients of the local Hub: by plain HTTP, with a home of their own.  Set before huggingface_hub is imported."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

HOME = tempfile.TemporaryDirectory(prefix="hub-tests-")
os.environ.update(
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_UPDATE_CHECK="1",
    HF_HUB_DISABLE_XET="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_HOME=HOME.name,
)
for name in ("HF_TOKEN", "HF_ENDPOINT", "HUGGING_FACE_HUB_TOKEN"):
    os.environ.pop(name, None)

from pruner.hub_failures import BACK_OFF  # noqa: E402
from release.hub.local import LocalHub  # noqa: E402
from tests.release.hub.releases import Faults, Release, api_of  # noqa: E402

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What may pass is asked again as often as ever, without the pauses."""
    monkeypatch.setattr("pruner.hub_failures.BACK_OFF", (0.0,) * len(BACK_OFF))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    with LocalHub(tmp_path / "hub") as running:
        yield running


@pytest.fixture
def api(hub: LocalHub) -> HfApi:
    return api_of(hub)


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return Release(tmp_path / "release")


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def faulty(tmp_path: Path, faults: Faults) -> Iterator[LocalHub]:
    with LocalHub(tmp_path / "hub", wrap=faults) as hub:
        yield hub


@pytest.fixture
def faulty_api(faulty: LocalHub) -> HfApi:
    return api_of(faulty)
