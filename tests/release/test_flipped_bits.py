"""A bit that is flipped anywhere, in base, target, drop map or lock, is found, and the file that it is in is named."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pruner.checkpoint import METADATA, open_checkpoint
from pruner.drop_map import DropMap, read_drop_map
from pruner.plan import plan_build
from release.cli import main
from release.commands.running import context_of
from release.lock import write_lock
from release.stages.verify import weights_lock
from tests.conftest import CheckpointFactory, gemma4_tensors

DROP = {"0": (1, 2), "1": (0, 3), "2": (6, 7)}
NAMED = {"base_model": {"name": "base"}, "ranking": {"method": "coverage", "protect": 16}}
MANIFEST = """schema: moe-release/v1
name: v
base: {path: base}
prune: {experts: 6, drop_map: {path: map.json}}
weights: {max_shard_size: 1KB}
"""
BITS = st.integers(0, (1 << 40) - 1)
"""Which bit of a file, by the remainder."""


@pytest.fixture
def release(make_checkpoint: CheckpointFactory, tmp_path: Path) -> Path:
    """A folder with base, map, manifest, the built weights in `work`, and their lock."""
    make_checkpoint()
    (tmp_path / "map.json").write_text(json.dumps(DropMap(DROP, provenance=NAMED).envelope(8), indent=1))
    (tmp_path / "v.yaml").write_text(MANIFEST)
    assert run("cut", tmp_path / "v.yaml", "--work", tmp_path / "work", "--until", "verify")[0] == 0
    write_lock(tmp_path / "v.lock.json", weights_lock(context_of(tmp_path / "v.yaml", tmp_path / "work")))
    assert verify(tmp_path)[0] == 0
    return tmp_path


def run(*words: str | Path) -> tuple[int, str]:
    """The command in this process: exit code, and all that it says."""
    said = io.StringIO()
    here = patch.object(sys, "argv", ["moe-release", *map(str, words)])
    with here, redirect_stdout(said), redirect_stderr(said), pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0), said.getvalue()


def verify(release: Path, *words: str | Path) -> tuple[int, str]:
    return run("verify", release / "v.yaml", "--work", release / "work", *words)


@contextmanager
def flipped(path: Path, bit: int) -> Iterator[int]:
    """One bit of a file is another; yields the place of its byte."""
    before = path.read_bytes()
    place, data = bit // 8 % len(before), bytearray(before)
    data[place] ^= 1 << bit % 8
    path.write_bytes(data)
    try:
        yield place
    finally:
        path.write_bytes(before)


@settings(max_examples=60)
@given(file=st.integers(0, 99), bit=BITS)
def test_in_the_target(release: Path, file: int, bit: int) -> None:
    weights = release / "work" / "weights"
    files = sorted(path for path in weights.iterdir())
    path = files[file % len(files)]
    right = _own_words_apart(weights)
    with flipped(path, bit):
        code, said = verify(release)
        assert (code, f"weights/{path.name} (changed)" in said) == (1, True)
        code, said = run("prove", weights, "--base", release / "base")
        if code == 0:  # a proof takes a target's word for what its base is called and how experts were ranked, and for no more
            assert (path.name, _own_words_apart(weights)) == (METADATA, right)
        else:
            assert path.name in said


def _own_words_apart(weights: Path) -> dict[str, object]:
    told = json.loads((weights / METADATA).read_bytes())
    return {key: value for key, value in told.items() if key not in ("base_model", "method")}


@settings(max_examples=60)
@given(file=st.integers(0, 99), bit=BITS)
@example(file=0, bit=1_000_000)  # a key of config.json that says how many layers there are
def test_in_the_base(release: Path, file: int, bit: int) -> None:
    base = release / "base"
    checkpoint, drop_map = open_checkpoint(base), read_drop_map(release / "map.json")
    plan = plan_build(checkpoint, drop_map, base_name={"name": "base"}, max_shard_size=1000)
    ranges = [part for shard in plan.shards for tensor in shard.tensors for part in tensor.ranges]
    path = base / checkpoint.files[file % len(checkpoint.files)]
    with flipped(path, bit) as place:
        code, said = verify(release, "--base", base)
        assert (code > 0, path.name in said) == (True, True)
        words = ("prune", base, release / "map.json", release / "out", "--lock", release / "v.lock.json")
        code, said = run(*words)
        assert (code > 0, path.name in said) == (True, True), said
        assert not (release / "out").exists()
        code, said = run("prove", release / "work" / "weights", "--base", base)
        if any(part.file == path.name and part.start <= place < part.start + part.length for part in ranges):
            assert code == 1
            assert any(f"tensor {name!r} differs from its byte" in said for name in gemma4_tensors())


@settings(max_examples=150)
@given(bit=BITS)
def test_in_the_lock(release: Path, bit: int) -> None:
    with flipped(release / "v.lock.json", bit):
        code, said = verify(release)
        assert code > 0
        assert "v.lock.json:" in said or "from lock: " in said, said


@settings(max_examples=15)
@given(bit=BITS)
def test_in_the_lock_or_the_drop_map_a_cut_stops(release: Path, bit: int) -> None:
    words = ("cut", release / "v.yaml", "--work", release / "work", "--until", "verify")
    for name in ("v.lock.json", "map.json"):
        with flipped(release / name, bit):
            code, said = run(*words)
            assert code > 0
            assert any(word in said for word in ("map.json", "drop map", "lock")), said
    assert run(*words)[0] == 0


def test_another_base_in_the_lock_is_found_before_anything_is_measured(release: Path) -> None:
    """The base was resolved under the right lock; an analysis would begin now."""
    lock = json.loads((release / "v.lock.json").read_text())
    shard = min(name for name in lock["inputs"]["base"]["files"] if name.endswith(".safetensors"))
    lock["inputs"]["base"]["files"][shard]["sha256"] = "0" * 64
    del lock["digest"]
    (release / "v.lock.json").write_text(json.dumps(lock))
    code, said = run("cut", release / "v.yaml", "--work", release / "work", "--until", "resolve")
    assert (code, f"base file {shard} has SHA-256" in said) == (1, True)
    code, said = verify(release)
    assert code == 1
    assert f"v.lock.json: was made from other inputs: base file {shard} (changed); restore it" in said
    shutil.rmtree(release / "work")
    assert run("cut", release / "v.yaml", "--work", release / "work", "--until", "verify", "--update-lock")[0] == 0
