"""What goes wrong in real life: one clear line, the right exit code, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.conftest import MANIFEST, copy_manifests, run_command


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    return copy_manifests(tmp_path / "manifests")


def failed(tmp_path: Path, manifests: Path, code: int, *words: str, until: str = "prune", **environment: str) -> str:
    """Run cut, check exit code, single line and that no output stands; return the line."""
    work = tmp_path / "work"
    result = run_command("cut", manifests / MANIFEST, "--work", work, "--until", until, *words, check=False, **environment)
    errors = [line for line in result.stderr.splitlines() if line.startswith("moe-release:")]
    assert result.returncode == code, result.stderr
    assert len(errors) == 1
    assert "Traceback" not in result.stderr
    assert not (work / "weights").exists()
    return errors[0]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def pinned_map(manifests: Path, drop: dict[str, list[int]]) -> None:
    """Let the manifest pin a bare map instead of measuring one."""
    (manifests / "map.json").write_text(json.dumps(drop))
    text = (manifests / MANIFEST).read_text()
    start, end = text.index("  analysis:"), text.index("weights:")
    (manifests / MANIFEST).write_text(text[:start] + "  drop_map: {path: map.json}\n" + text[end:])


GOOD_MAP = {str(layer): list(range(12)) for layer in range(4)}


def test_a_pinned_map_needs_no_analysis(tmp_path: Path, manifests: Path) -> None:
    pinned_map(manifests, GOOD_MAP)
    output = run_command("cut", manifests / MANIFEST, "--work", tmp_path / "work", "--until", "prune", "--json")
    stages = {each["stage"]: each for each in json.loads(output.stdout)["stages"]}
    assert stages["analyze"]["detail"] == "the manifest pins a drop map"
    assert stages["prune"]["status"] == "done"


def test_a_typo_in_the_manifest(tmp_path: Path, manifests: Path) -> None:
    edit(manifests / MANIFEST, "weights: {max_shard_size", "weights: {max_shard_sise")
    assert "unknown key 'weights.max_shard_sise'; did you mean 'max_shard_size'?" in failed(tmp_path, manifests, 2)


def test_a_missing_base(tmp_path: Path, manifests: Path) -> None:
    shutil.rmtree(manifests / "tiny" / "model")
    assert "base.path: 'tiny/model' is no folder" in failed(tmp_path, manifests, 2)


def test_a_truncated_shard(tmp_path: Path, manifests: Path) -> None:
    pinned_map(manifests, GOOD_MAP)
    shard = min((manifests / "tiny" / "model").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    line = failed(tmp_path, manifests, 2)
    assert shard.name in line
    assert "truncated" in line


def test_another_base_than_the_locked_one(tmp_path: Path, manifests: Path) -> None:
    pinned_map(manifests, GOOD_MAP)
    shard = min((manifests / "tiny" / "model").glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert "the lock pins" in failed(tmp_path, manifests, 1)


def test_a_map_for_another_model(tmp_path: Path, manifests: Path) -> None:
    pinned_map(manifests, {str(layer): list(range(12)) for layer in range(30)})
    assert "30 layers, the base has 4 with experts; it has no layer 4" in failed(tmp_path, manifests, 2)


def test_a_map_that_keeps_another_number(tmp_path: Path, manifests: Path) -> None:
    pinned_map(manifests, {str(layer): list(range(11)) for layer in range(4)})
    assert "keeps 5 experts per layer, the manifest says 4" in failed(tmp_path, manifests, 2)


def test_no_llama_cpp(tmp_path: Path, manifests: Path) -> None:
    pinned_map(manifests, GOOD_MAP)
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {"MOE_RELEASE_LLAMA_CPP": "", "MOE_RELEASE_CACHE": str(empty), "PATH": "/usr/bin:/bin"}
    line = failed(tmp_path, manifests, 3, until="quantize", **environment)
    assert "moe-release toolchain install" in line


def test_no_token_for_the_public_hub(tmp_path: Path, manifests: Path) -> None:
    pinned_map(manifests, GOOD_MAP)
    environment = {"HF_TOKEN": "", "HF_HOME": str(tmp_path / "home"), "HF_TOKEN_PATH": str(tmp_path / "home" / "token")}
    assert "no Hub token: set HF_TOKEN" in failed(tmp_path, manifests, 3, until="readback", **environment)


def test_an_occupied_port(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run_command("hub", "serve", tmp_path / "hub", "--port", str(port), check=False)
    assert result.returncode == 3
    assert str(port) in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_no_disk_space(tmp_path: Path, manifests: Path) -> None:
    pinned_map(manifests, GOOD_MAP)
    small = tmp_path / "work"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=False, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        assert "free" in failed(tmp_path, manifests, 3)
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize("stage", ["nonsense", "Prune"])
def test_an_unknown_stage(tmp_path: Path, manifests: Path, stage: str) -> None:
    assert f"no stage is called '{stage}'" in failed(tmp_path, manifests, 2, "--skip", stage)
