"""The golden cards are the ones that the committed lock holds; how to refresh them stands in CONTRIBUTING.md."""

from __future__ import annotations

import pytest

from pruner.files import sha256_file
from release.lock import read_lock
from tests.conftest import MANIFESTS, ROOT

GOLDEN = ROOT / "tests" / "release" / "card" / "golden" / "tiny-gemma4-4e"


@pytest.mark.parametrize("name", ["README.md", "README.gguf.md", "results.md"])
def test_the_golden_cards_of_the_tiny_release_are_the_locked_ones(name: str) -> None:
    lock = read_lock(MANIFESTS / "tiny-gemma4-4e.lock.json")
    assert lock is not None
    assert lock.outputs[f"card/{name}"].sha256 == sha256_file(GOLDEN / name)
