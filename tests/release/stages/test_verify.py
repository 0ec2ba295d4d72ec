"""Weights against a lock that was changed in one place: what is found, and what it is called."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pruner.files import sha256_file
from release.commands.running import context_of
from release.lock import write_lock
from release.stages.verify import tensor_digests, weights_lock
from tests.conftest import CheckpointFactory
from tests.release.test_cli import moe_release

MANIFEST = """schema: moe-release/v1
name: v
base: {path: base}
prune: {experts: 6, drop_map: {path: map.json}}
weights: {max_shard_size: 1KB}
"""


@pytest.fixture
def manifest(make_checkpoint: CheckpointFactory, tmp_path: Path) -> Path:
    """A manifest with its built and verified weights in `work`, and their lock beside it."""
    make_checkpoint()
    (tmp_path / "map.json").write_text(json.dumps({"0": [1, 2], "1": [0, 3], "2": [6, 7]}))
    path = tmp_path / "v.yaml"
    path.write_text(MANIFEST)
    done = moe_release("cut", path, "--work", tmp_path / "work", "--until", "verify")
    assert done.returncode == 0, done.stderr
    write_lock(tmp_path / "v.lock.json", weights_lock(context_of(path, tmp_path / "work")))
    return path


def flipped(digest: str) -> str:
    return f"{digest[:10]}{int(digest[10], 16) ^ 1:x}{digest[11:]}"


def change_digest(lock: dict[str, Any], shard: str) -> None:
    lock["outputs"][shard]["sha256"] = flipped(lock["outputs"][shard]["sha256"])


def change_tensor(lock: dict[str, Any], shard: str) -> None:
    tensor = next(iter(lock["outputs"][shard]["tensors"].values()))
    tensor["sha256"] = flipped(tensor["sha256"])


def change_size(lock: dict[str, Any], shard: str) -> None:
    lock["outputs"][shard]["size"] ^= 1


def change_map(lock: dict[str, Any], _shard: str) -> None:
    lock["inputs"]["drop_map"]["1"] = [0, 2]


def change_tensor_data(lock: dict[str, Any], _shard: str) -> None:
    lock["tensor_data"] = flipped(lock["tensor_data"])


def verify(manifest: Path) -> tuple[int, str]:
    done = moe_release("verify", manifest, "--work", manifest.parent / "work")
    return done.returncode, done.stdout + done.stderr


def test_the_lock_holds_digests_of_tensors_that_the_build_did_not_take(manifest: Path, tmp_path: Path) -> None:
    assert verify(manifest)[0] == 0
    shards = sorted((tmp_path / "work" / "weights").glob("*.safetensors"))
    assert len(shards) > 1
    assert '"tensors"' not in (tmp_path / "work" / "build.json").read_text()
    known = tensor_digests(context_of(manifest, tmp_path / "work"))
    assert known.keys() == {sha256_file(path) for path in shards}
    lock = json.loads((tmp_path / "v.lock.json").read_bytes())
    assert all(lock["outputs"][f"weights/{path.name}"]["tensors"] == known[sha256_file(path)] for path in shards)


@pytest.mark.parametrize("change", [change_digest, change_tensor, change_size, change_map, change_tensor_data])
def test_a_change_anywhere_in_a_lock_is_called_that(
    manifest: Path, tmp_path: Path, change: Callable[[dict[str, Any], str], None]
) -> None:
    path = tmp_path / "v.lock.json"
    lock = json.loads(path.read_bytes())
    del lock["digest"]
    change(lock, next(name for name in lock["outputs"] if name.endswith(".safetensors")))
    path.write_text(json.dumps(lock))
    code, said = verify(manifest)
    assert code == 1
    assert "v.lock.json: was damaged or edited" in said
    assert "other packaging" not in said


def test_other_packaging_is_called_that(manifest: Path, tmp_path: Path) -> None:
    manifest.write_text(MANIFEST.replace("1KB", "2KB"))
    done = moe_release("cut", manifest, "--work", tmp_path / "work", "--until", "verify")
    assert done.returncode == 1
    assert "same weights, other packaging" in done.stderr


def test_a_flipped_bit_of_the_weights_is_no_fault_of_the_lock(manifest: Path, tmp_path: Path) -> None:
    shard = max((tmp_path / "work" / "weights").glob("*.safetensors"))
    before = (tmp_path / "work" / "tensor_digests.json").read_bytes()
    shard.write_bytes(shard.read_bytes()[:-1] + bytes([shard.read_bytes()[-1] ^ 1]))
    code, said = verify(manifest)
    assert (code, f"{shard.name} (changed): the file changed after it was written" in said) == (1, True)
    assert (tmp_path / "work" / "tensor_digests.json").read_bytes() == before


def test_a_lock_without_digests_of_tensors_is_read(manifest: Path, tmp_path: Path) -> None:
    path = tmp_path / "v.lock.json"
    lock = json.loads(path.read_bytes())
    del lock["tensor_data"], lock["digest"]
    for entry in lock["outputs"].values():
        entry.pop("tensors", None)
    path.write_text(json.dumps(lock))
    assert verify(manifest)[0] == 0
    shutil.rmtree(tmp_path / "work")
    manifest.write_text(MANIFEST.replace("1KB", "2KB"))
    done = moe_release("cut", manifest, "--work", tmp_path / "work", "--until", "verify")
    assert (done.returncode, "without digests of their tensors" in done.stderr) == (1, True)
