"""Preflight: what is refused before time is spent."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pruner.errors import UnavailableError
from release.context import Context
from release.manifest import load_manifest
from release.stages.preflight import STAGE

TEXT = """schema: moe-release/v1
name: huge
base: {path: base}
prune: {experts: 6, drop_map: {path: map.json}}
"""


def context(folder: Path, shard_size: int) -> Context:
    (folder / "base").mkdir()
    (folder / "map.json").write_text('{"0": [1]}')
    with (folder / "base" / "model.safetensors").open("wb") as shard:
        shard.truncate(shard_size)  # sparse: it takes no room itself
    (folder / "m.yaml").write_text(TEXT)
    return Context(load_manifest(folder / "m.yaml"), folder / "work")


def test_a_disk_that_is_too_small_is_found_before_the_build(tmp_path: Path) -> None:
    too_many = (
        1 + shutil.disk_usage(tmp_path).free
    )  # a file of holes may be larger than the disk, not larger than its file system's limit
    with pytest.raises(UnavailableError, match=f"this release needs {too_many:,} bytes"):
        STAGE.run(context(tmp_path, too_many))


def test_a_release_that_fits_passes(tmp_path: Path) -> None:
    assert STAGE.run(context(tmp_path, 1 << 20)) is None
