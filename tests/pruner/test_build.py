from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from pruner.build import MARKER, BuildResult, build
from pruner.checkpoint import open_checkpoint
from pruner.drop_map import DropMap
from pruner.errors import InputError, UnavailableError
from pruner.plan import plan_build
from pruner.safetensors_format import data_order
from tests.conftest import ROOT, CheckpointFactory, gemma4_config, gemma4_tensors
from tests.digests import digests
from tests.pruner.sparse import sparse_checkpoint

DROP = {"0": (1, 2, 7), "1": (0, 3, 4), "2": (5, 6, 7)}
LONG_AGO = 10**18
"""Nanoseconds since 1970: a time of writing that no file of a test can have by itself."""


def run_build(base: Path, out: Path, drop: dict[str, tuple[int, ...]] = DROP, *, cap: int = 400, **options: Any) -> BuildResult:
    plan = plan_build(open_checkpoint(base), DropMap(drop), base_name={"name": "org/base"}, max_shard_size=cap)
    return build(plan, base, out, **options)


class Recording(ThreadPoolExecutor):
    """Threads that note how many bytes each piece of work writes, in the order in which it was given."""

    def __init__(self) -> None:
        super().__init__(2)
        self.sizes: list[int] = []

    def submit(self, function: Any, /, chain: Any, *words: Any, **options: Any) -> Any:
        self.sizes.append(sum(shard.size for shard in chain))
        return super().submit(function, chain, *words, **options)


def test_large_shards_are_begun_first(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    with Recording() as threads:
        result = run_build(make_checkpoint(), tmp_path / "out", executor=threads)
    assert threads.sizes == sorted(threads.sizes, reverse=True)
    sizes = [file.size for file in result.files if file.name.endswith(".safetensors")]
    assert sorted(threads.sizes) == sorted(sizes)
    assert sizes != threads.sizes, "the order of the names would do as well"


def expected_tensors(drop: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Slices taken by numpy, independently of plans and byte ranges."""
    result = {}
    for name, array in gemma4_tensors(seed=seed).items():
        layer = name.split(".")[3] if ".layers." in name else ""
        keep = [expert for expert in range(8) if expert not in drop.get(layer, ())]
        result[name] = array[keep] if ".experts." in name or ".router." in name else array
    return result


def test_every_shard_equals_what_save_file_writes(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base = make_checkpoint()
    run_build(base, tmp_path / "out")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    expected = expected_tensors(DROP)
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 3
    assert set(index["weight_map"]) == set(expected)
    for shard in shards:
        part = {name: expected[name] for name, where in index["weight_map"].items() if where == shard}
        save_file(part, tmp_path / "reference.safetensors", metadata={"format": "pt"})
        assert (tmp_path / "out" / shard).read_bytes() == (tmp_path / "reference.safetensors").read_bytes()
    assert index["metadata"] == {
        "total_size": sum(array.nbytes for array in expected.values()),
        "total_parameters": sum(array.size for array in expected.values()),
    }


@settings(max_examples=25)
@given(data=st.data(), kept=st.integers(2, 7), cap=st.sampled_from([1, 150, 700, 10**6]))
def test_any_map_and_layout_gives_the_sliced_tensors(
    data: st.DataObject, kept: int, cap: int, make_checkpoint: CheckpointFactory, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("property")
    base = make_checkpoint(folder.name)
    drop = {
        str(layer): tuple(sorted(data.draw(st.permutations(range(8)), label=f"layer {layer}")[: 8 - kept]))
        for layer in range(3)
    }
    run_build(base, folder / "out", drop, cap=cap)
    found = {}
    for shard in (folder / "out").glob("*.safetensors"):
        tensors = load_file(shard)
        assert len(tensors) == 1 or sum(array.nbytes for array in tensors.values()) <= cap
        found |= tensors
    expected = expected_tensors(drop)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_packing_follows_the_base_index_greedily(make_checkpoint: CheckpointFactory) -> None:
    base = open_checkpoint(make_checkpoint())
    plan = plan_build(base, DropMap(DROP), base_name={"name": "b"}, max_shard_size=400)
    order = list(base.tensors)
    assert order != sorted(order)
    position = 0
    for shard in plan.shards:
        names = [tensor.name for tensor in shard.tensors]
        assert set(names) == set(order[position : position + len(names)])
        assert names == data_order((tensor.name, tensor.dtype) for tensor in shard.tensors)
        position += len(names)
    assert position == len(order)


def test_bytes_do_not_depend_on_workers_executor_or_path(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base = make_checkpoint()
    results = [run_build(base, tmp_path / "one", workers=1), run_build(base, tmp_path / "deep" / "er" / "three", workers=3)]
    with ThreadPoolExecutor(2) as threads:
        results.append(run_build(base, tmp_path / "threads", executor=threads))
    with ProcessPoolExecutor(2) as processes:
        results.append(run_build(base, tmp_path / "processes", executor=processes))
    folders = [tmp_path / "one", tmp_path / "deep" / "er" / "three", tmp_path / "threads", tmp_path / "processes"]
    assert len({json.dumps(digests(folder)) for folder in folders}) == 1
    assert all(result == results[0] for result in results)
    assert {file.name: file.sha256 for file in results[0].files} == digests(folders[0])


def test_config_changes_only_in_the_expert_count(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base = make_checkpoint()
    run_build(base, tmp_path / "out")
    expected = gemma4_config()
    expected["text_config"]["num_experts"] = 5
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == expected
    assert "1e-06" in (tmp_path / "out" / "config.json").read_text()


def test_other_files_are_copied_and_the_bases_card_is_not(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base = make_checkpoint()
    code = ["modeling_x.py", "pytorch_model.bin", "tokenizer.pkl", "license.py", "tokenizer.py", "LICENSE.bin"]
    terms = ["LICENSE-MODEL", "LICENCE.rst", "USAGE_POLICY.md", "USE_POLICY", "NOTICE.html", "tokenizer.model.v3", "vocab.txt"]
    for name in [".hidden", ".LICENSE", "unknown.xyz", *code, *terms]:
        (base / name).write_text("x")
    run_build(base, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".safetensors"}
    written = {"config.json", "model.safetensors.index.json", "expert_drop_metadata.json", "tokenizer.json"}
    assert names == {*written, *terms}
    assert open_checkpoint(base).left == tuple(sorted(["unknown.xyz", *code]))
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


def test_drop_metadata_holds_ids_and_no_path(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base = make_checkpoint()
    run_build(base, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "expert_drop_metadata.json").read_text())
    assert content["per_layer_drop"]["0"] == [1, 2, 7]
    assert content["per_layer_keep"]["0"] == [0, 3, 4, 5, 6]
    assert content["drop_map_digest"] == DropMap(DROP).digest
    assert str(tmp_path) not in json.dumps(content)


def test_a_snapshot_of_symbolic_links_is_a_base(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base = make_checkpoint()
    links, blobs = tmp_path / "models--o--b" / "snapshots" / ("c" * 40), tmp_path / "models--o--b" / "blobs"
    links.mkdir(parents=True)
    blobs.mkdir()
    for path in base.iterdir():
        (blobs / path.name).write_bytes(path.read_bytes())
        (links / path.name).symlink_to(Path("../../blobs") / path.name)
    run_build(base, tmp_path / "one")
    run_build(links, tmp_path / "two")
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


KILLED = """
import os, signal, sys
from pathlib import Path
import pruner.build
from pruner.build import build, write_shard
from pruner.checkpoint import open_checkpoint
from pruner.drop_map import DropMap
from pruner.plan import plan_build
base, out, after = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
copied = 0
def die_after(ranges, original=pruner.build.read_ranges):
    def counted(folder, ranges):
        global copied
        for block in original(folder, ranges):
            copied += 1
            if copied > after:
                os.kill(os.getpid(), signal.SIGKILL)
            yield block
    return counted
pruner.build.read_ranges = die_after(None)
drop_map = DropMap({"0": (1, 2, 7), "1": (0, 3, 4), "2": (5, 6, 7)})
plan = plan_build(open_checkpoint(base), drop_map, base_name={"name": "org/base"}, max_shard_size=400)
build(plan, base, out, workers=1)
"""


@pytest.mark.parametrize("after", [0, 3, 9, 20])
def test_killed_at_any_block_the_next_build_ends_with_the_same_bytes(
    make_checkpoint: CheckpointFactory, tmp_path: Path, after: int
) -> None:
    base = make_checkpoint()
    run_build(base, tmp_path / "reference")
    out = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", KILLED, base, out, str(after)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    partial = tmp_path / ".out.partial"
    finished = [path.name for path in partial.glob("*.safetensors")]
    assert len(finished) > (0 if after > 8 else -1)
    for name in finished:
        os.utime(partial / name, ns=(0, LONG_AGO))
    run_build(base, out)
    assert digests(out) == digests(tmp_path / "reference")
    assert not partial.exists()
    assert {(out / name).stat().st_mtime_ns for name in finished} <= {LONG_AGO}, "a finished shard was written again"


def test_a_damaged_leftover_is_written_again(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base = make_checkpoint()
    run_build(base, tmp_path / "reference")
    subprocess.run([sys.executable, "-c", KILLED, base, tmp_path / "out", "20"], check=False)
    left = sorted((tmp_path / ".out.partial").glob("*.safetensors"))
    data = bytearray(left[0].read_bytes())
    data[-1] ^= 1
    left[0].write_bytes(data)
    run_build(base, tmp_path / "out")
    assert digests(tmp_path / "out") == digests(tmp_path / "reference")


def test_killed_between_the_last_two_renames_the_next_build_goes_on(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base = make_checkpoint()
    run_build(base, tmp_path / "out")
    expected = digests(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / ".out.partial")
    (tmp_path / ".out.partial" / ".model-00001.abc.tmp").write_text("left by a killed worker")
    (tmp_path / ".out.partial" / MARKER).touch()
    run_build(base, tmp_path / "out")
    assert digests(tmp_path / "out") == expected
    (tmp_path / "out").rename(tmp_path / ".out.partial")
    run_build(base, tmp_path / "out")
    assert digests(tmp_path / "out") == expected


def test_a_target_that_exists_is_refused(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="already exists"):
        run_build(make_checkpoint(), tmp_path / "out")


def test_a_foreign_partial_folder_is_refused(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not an unfinished build"):
        run_build(make_checkpoint(), tmp_path / "out")
    assert (tmp_path / ".out.partial" / "thesis.txt").exists()


WAITING = """
import sys, time
from pathlib import Path
import pruner.build
from tests.pruner.test_build import run_build
base, out = Path(sys.argv[1]), Path(sys.argv[2])
original = pruner.build.read_ranges
def slow(folder, ranges):
    (out.parent / "begun").touch()
    while not (out.parent / "go").exists():
        time.sleep(0.01)
    yield from original(folder, ranges)
pruner.build.read_ranges = slow
run_build(base, out)
"""


def test_a_second_process_leaves_the_first_alone(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base, out = make_checkpoint(), tmp_path / "out"
    run_build(base, tmp_path / "reference")
    with subprocess.Popen([sys.executable, "-c", WAITING, base, out], cwd=ROOT) as first:
        while not (tmp_path / "begun").exists() and first.poll() is None:
            time.sleep(0.01)
        with pytest.raises(UnavailableError, match=r"out: another process builds it; wait for its end, or choose another"):
            run_build(base, out)
        (tmp_path / "go").touch()
    assert first.returncode == 0
    assert digests(out) == digests(tmp_path / "reference")
    assert not list(tmp_path.glob(".out*")), "nothing is left beside it"


def large_checkpoint(folder: Path) -> Path:
    """25 MB that take no disk; with 5 of 8 experts, 22 MB that do."""
    prefix = "model.language_model.layers.0"
    shapes: dict[str, tuple[int, ...]] = {
        "model.language_model.embed_tokens.weight": (8 << 10, 1024),
        f"{prefix}.experts.down_proj": (8, 64, 1024),
        f"{prefix}.experts.gate_up_proj": (8, 512, 1024),
        f"{prefix}.router.proj.weight": (8, 1024),
    }
    return sparse_checkpoint(folder, gemma4_config(layers=1), shapes, dtype="F16", shards=1)


def test_room_is_asked_for_before_the_first_byte(tmp_path: Path, tiny_disk: Callable[[str], Path]) -> None:
    base, disk = large_checkpoint(tmp_path / "base"), tiny_disk("1m")
    plan = plan_build(open_checkpoint(base), DropMap({"0": (1, 2, 7)}), base_name={"name": "b"})
    with pytest.raises(
        UnavailableError, match=r"the build needs 22,\d{3},\d{3} bytes and [\d,]+ are free; free some, or ch"
    ) as error:
        build(plan, base, disk / "out")
    assert "--work" not in str(error.value)
    assert [path.name for path in disk.rglob("*") if path.is_file()] == [MARKER]


def test_what_a_build_of_another_map_left_makes_room(tmp_path: Path, tiny_disk: Callable[[str], Path]) -> None:
    """Two shards of 22 MB do not fit on the disk, and the one that is there is of no use."""
    base, disk = large_checkpoint(tmp_path / "base"), tiny_disk("40m")
    for drop in ((1, 2, 7), (0, 3, 4)):
        plan = plan_build(open_checkpoint(base), DropMap({"0": drop}), base_name={"name": "b"})
        build(plan, base, disk / "out")
        (disk / "out").rename(disk / ".out.partial")
        (disk / ".out.partial" / MARKER).touch()
    plan = plan_build(open_checkpoint(base), DropMap({"0": drop}), base_name={"name": "b"})
    build(plan, base, disk / "out")
    assert [path.name for path in disk.iterdir()] == ["out"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk_is_one_line_and_leaves_no_target(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base = make_checkpoint()
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", small], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        with pytest.raises(UnavailableError, match="free"):
            run_build(base, small / "out")
        assert not (small / "out").exists()
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_linked_beginning_is_not_followed(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / ".out.partial").symlink_to(outside)
    with pytest.raises(InputError, match="is a link and not an unfinished build"):
        run_build(make_checkpoint(), tmp_path / "out")
    assert list(outside.iterdir()) == []
