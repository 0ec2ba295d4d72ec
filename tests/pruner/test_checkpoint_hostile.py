"""A base's config, index and shards, and a prune's own metadata, as anybody may have written them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruner.checkpoint import INDEX, METADATA, open_checkpoint
from pruner.comparison.diff import diff
from pruner.comparison.inference import infer
from pruner.proof import prove
from pruner.sources import LocalSource
from tests.conftest import CheckpointFactory
from tests.hostile import FUZZ, assert_read_or_refused, changed_bytes, changed_json
from tests.pruner.test_build import DROP, run_build

SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture
def base(make_checkpoint: CheckpointFactory) -> Path:
    return make_checkpoint()


@pytest.fixture
def target(base: Path, tmp_path: Path) -> Path:
    run_build(base, tmp_path / "target")
    return tmp_path / "target"


@contextmanager
def changed(path: Path, data: bytes) -> Iterator[int]:
    """A file with other bytes, and its folder's size; afterwards the file is what it was."""
    sound = path.read_bytes()
    path.write_bytes(data)
    try:
        yield sum(each.stat().st_size for each in path.parent.iterdir())
    finally:
        path.write_bytes(sound)


@FUZZ
@given(data=st.data(), name=st.sampled_from(["config.json", INDEX]))
def test_config_and_index_of_a_base(base: Path, data: st.DataObject, name: str) -> None:
    with changed(base / name, data.draw(changed_json(json.loads((base / name).read_text())))) as size:
        if assert_read_or_refused(lambda: open_checkpoint(base), "base", size):
            out = base.parent / "out"
            assert_read_or_refused(lambda: run_build(base, out), "", size)
            shutil.rmtree(out, ignore_errors=True)


@FUZZ
@given(data=st.data())
def test_a_shard_of_a_base(base: Path, data: st.DataObject) -> None:
    with changed(base / SHARD, data.draw(changed_bytes((base / SHARD).read_bytes()))) as size:
        assert_read_or_refused(lambda: open_checkpoint(base), "base/", size)


@FUZZ
@given(data=st.data(), name=st.sampled_from(["config.json", INDEX, METADATA]))
def test_what_a_prune_says_of_itself(base: Path, target: Path, data: st.DataObject, name: str) -> None:
    """`prove`, `infer` and `diff` read a target that nobody vouches for."""
    sources = LocalSource(target), LocalSource(base)
    with changed(target / name, data.draw(changed_json(json.loads((target / name).read_text())))) as size:
        assert_read_or_refused(lambda: prove(*sources, workers=1), "target", size)
        assert_read_or_refused(lambda: infer(*sources, workers=1), "target", size)
        assert_read_or_refused(lambda: diff(*sources, workers=1), "target", size)


def test_the_sound_prune_is_read(base: Path, target: Path) -> None:
    sources = LocalSource(target), LocalSource(base)
    assert prove(*sources, workers=1).good
    assert infer(*sources, workers=1).drop_map.drop == DROP
