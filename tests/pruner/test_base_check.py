"""Pinned base files, checked in the pass that copies them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from pruner.base_check import FollowingSource
from pruner.build import BuildResult, build
from pruner.checkpoint import open_checkpoint
from pruner.drop_map import DropMap
from pruner.errors import CheckFailedError
from pruner.plan import plan_build
from pruner.sources import LocalSource
from tests.conftest import CheckpointFactory, gemma4_config, gemma4_tensors
from tests.digests import digests

DROP = {"0": (1, 2, 7), "1": (0, 3, 4), "2": (5, 6, 7)}


def pins_of(base: Path) -> dict[str, str]:
    names = open_checkpoint(base).files
    return {name: digest for name, digest in digests(base).items() if name in names}


def run(base: Path, out: Path, **options: Any) -> BuildResult:
    plan = plan_build(open_checkpoint(base), DropMap(DROP), base_name={"name": "org/base"}, max_shard_size=400)
    return build(plan, base, out, **options)


def test_a_checked_build_has_the_same_bytes_for_any_workers(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base = make_checkpoint()
    expected = run(base, tmp_path / "plain")
    for workers in (1, 3):
        assert run(base, tmp_path / f"checked-{workers}", workers=workers, verify_base=pins_of(base)) == expected
    with ProcessPoolExecutor(2) as executor:
        assert run(base, tmp_path / "processes", executor=executor, verify_base=pins_of(base)) == expected


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(
    "name", ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "tokenizer.json", "config.json"]
)
def test_one_changed_bit_anywhere_stops_the_build_and_leaves_nothing(
    make_checkpoint: CheckpointFactory, tmp_path: Path, name: str, workers: int
) -> None:
    base = make_checkpoint()
    pins = {**pins_of(base), name: "0" * 64}
    with pytest.raises(CheckFailedError, match=f"base/{name}: has SHA-256 .* is pinned; use the pinned base"):
        run(base, tmp_path / "out", workers=workers, verify_base=pins)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_changed_byte_of_a_dropped_expert_is_found(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base = make_checkpoint()
    pins = pins_of(base)
    tensor = open_checkpoint(base).tensors["model.language_model.layers.0.experts.down_proj"]
    data = bytearray((base / tensor.shard).read_bytes())
    data[tensor.info.end - 1] ^= 1  # expert 7 of layer 0, which is dropped
    (base / tensor.shard).write_bytes(data)
    run(base, tmp_path / "unchecked")
    with pytest.raises(CheckFailedError, match=tensor.shard):
        run(base, tmp_path / "out", verify_base=pins)


def test_a_pinned_file_that_is_missing_is_named(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    with pytest.raises(CheckFailedError, match=r"base/more\.json: the base file is missing"):
        run(make_checkpoint(), tmp_path / "out", verify_base={"more.json": "0" * 64})


def test_reading_in_order_digests_without_a_second_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(range(200)))
    read: Counter[int] = Counter()

    class Counted(LocalSource):
        def blocks(self, name: str, start: int, length: int) -> Iterator[bytes]:
            read.update(range(start, start + length))
            yield from super().blocks(name, start, length)

    follower = FollowingSource(Counted(tmp_path), {"x": hashlib.sha256(bytes(range(200))).hexdigest()})
    assert follower.read("x", 10, 20) == bytes(range(10, 30))
    assert follower.read("x", 50, 5) == bytes(range(50, 55))
    follower.finish()
    assert read == Counter(range(200))


def test_a_checkpoint_of_one_dtype_is_read_once(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    tensors = {name: array.astype(np.float16) for name, array in gemma4_tensors().items()}
    save_file(tensors, base / "model.safetensors")
    (base / "config.json").write_text(json.dumps(gemma4_config()))
    read: Counter[int] = Counter()

    class Counted(LocalSource):
        def blocks(self, name: str, start: int, length: int) -> Iterator[bytes]:
            if name == "model.safetensors":
                read.update(range(start, start + length))
            yield from super().blocks(name, start, length)

    plan = plan_build(open_checkpoint(base), DropMap(DROP), base_name={"name": "b"}, max_shard_size=400)
    build(
        plan, Counted(base), tmp_path / "out", workers=3, verify_base={"model.safetensors": digests(base)["model.safetensors"]}
    )
    assert read == Counter(range((base / "model.safetensors").stat().st_size))


def test_shards_of_a_base_that_changed_since_are_not_kept(
    make_checkpoint: CheckpointFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build that was cut short, then another base under the same name: nothing of the first one survives."""
    base, other = make_checkpoint(), make_checkpoint("other", seed=1)
    expected = run(other, tmp_path / "expected")
    with monkeypatch.context() as patch:
        patch.setattr("pruner.build._finish", lambda *_words: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(base, tmp_path / "out")
    assert len(list((tmp_path / ".out.partial").glob("*.safetensors.json"))) > 3
    for path in base.iterdir():
        path.write_bytes((other / path.name).read_bytes())
    assert run(base, tmp_path / "out").files == expected.files
