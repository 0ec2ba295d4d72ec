"""Manifests and descriptions of headers as anybody may have written them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruner.errors import InputError
from release import reproduce
from release.base_headers import described_base
from release.manifest import LoadedManifest, PinnedFile, load_manifest
from tests.conftest import MANIFESTS
from tests.hostile import FUZZ, NAMES, assert_one_line, assert_read_or_refused, changed_yaml

MANIFEST = (MANIFESTS / "tiny-gemma4-4e.yaml").read_text()
HEADERS = (MANIFESTS / "headers" / "gemma-4-26B-A4B-it.yaml").read_text()


def used(path: Path) -> None:
    """Read a manifest, and look for every file that it names."""
    loaded = load_manifest(path)
    for pinned in reproduce.named_files(loaded.content):
        assert loaded.file(pinned).resolve().is_relative_to(path.parent.resolve())
    assert loaded.lock_path.parent == path.parent


@FUZZ
@given(data=st.data())
def test_a_manifest(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "m.yaml"
    path.write_bytes(data.draw(changed_yaml(MANIFEST)))
    assert_read_or_refused(lambda: used(path), "", path.stat().st_size)
    assert_read_or_refused(lambda: load_manifest(path), str(path), path.stat().st_size)


@FUZZ
@given(data=st.data())
def test_a_description_of_headers(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "h.yaml"
    path.write_bytes(data.draw(changed_yaml(HEADERS)))
    assert_read_or_refused(lambda: described_base(path), str(path), 1 << 20)


@pytest.mark.parametrize("name", NAMES)
def test_a_named_file_stays_inside_or_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    (tmp_path / "x").write_text("secret")
    path = folder / "m.yaml"
    path.write_text(MANIFEST)
    loaded = LoadedManifest(path, load_manifest(path).content)
    with pytest.raises(InputError) as error:
        loaded.file(PinnedFile(path=name))
    assert_one_line(error.value, "")
