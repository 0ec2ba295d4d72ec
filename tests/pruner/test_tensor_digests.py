from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors.numpy import load_file

from pruner.tensor_digests import TensorDigests, digest_shard, tensor_data_digest
from tests.conftest import CheckpointFactory
from tests.pruner.test_build import run_build


def shards(folder: Path) -> list[TensorDigests]:
    return [digest_shard(path).tensors for path in sorted(folder.glob("*.safetensors"))]


def test_the_digest_of_tensor_data_ignores_packaging_but_not_bytes(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base, other = make_checkpoint(), make_checkpoint("other", seed=1)
    one = run_build(base, tmp_path / "one", cap=400)
    packed = run_build(base, tmp_path / "packed", cap=10**6)
    run_build(other, tmp_path / "changed", cap=400)
    assert one.files != packed.files
    digests = [tensor_data_digest(shards(tmp_path / name)) for name in ("one", "packed", "changed")]
    assert digests[0] == digests[1] != digests[2]


def test_file_and_tensors_are_digested_in_one_pass(make_checkpoint: CheckpointFactory) -> None:
    for path in make_checkpoint().glob("*.safetensors"):
        read: list[int] = []
        found = digest_shard(path, read.append)
        assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert sum(read) == path.stat().st_size
        arrays = load_file(path)
        assert {name: entry["sha256"] for name, entry in found.tensors.items()} == {
            name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()
        }
        assert {name: tuple(entry["shape"]) for name, entry in found.tensors.items()} == {
            name: array.shape for name, array in arrays.items()
        }


def test_a_shard_with_a_damaged_header_still_has_its_file_digest(make_checkpoint: CheckpointFactory) -> None:
    path = next(make_checkpoint().glob("*.safetensors"))
    damaged = bytearray(path.read_bytes())
    damaged[8] ^= 1
    path.write_bytes(damaged)
    found = digest_shard(path)
    assert (found.sha256, dict(found.tensors)) == (hashlib.sha256(damaged).hexdigest(), {})
