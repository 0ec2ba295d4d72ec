"""A manifest whose base and prior builds are repositories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pruner.build import build
from pruner.checkpoint import open_checkpoint
from pruner.drop_map import DropMap
from pruner.plan import plan_build
from release.hub.local import LocalHub
from tests.digests import digests
from tests.pruner.test_proof import sparse_checkpoint
from tests.release.hub.remote.repositories import BASE, TARGET, Faults, run_cli, upload

if TYPE_CHECKING:
    from huggingface_hub import HfApi

DROP = {"0": [1, 2, 7]}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return sparse_checkpoint(tmp_path / "base", rows=512)


@pytest.fixture
def commit(api: HfApi, base: Path) -> str:
    return upload(api, BASE, base, private=True)


def write_manifest(folder: Path, commit: str, prior: str = "[]") -> Path:
    (folder / "map.json").write_text(json.dumps(DROP))
    path = folder / "sparse.yaml"
    path.write_text(
        f"schema: moe-release/v1\nname: sparse\nbase: {{repo: {BASE}, revision: {commit}}}\n"
        f"prune: {{experts: 5, drop_map: {{path: map.json}}}}\nweights: {{max_shard_size: 20MB}}\nprior: {prior}\n"
    )
    return path


def cut(hub: LocalHub, tmp_path: Path, manifest: Path, code: int = 0) -> str:
    done = run_cli(hub, "cut", manifest, "--work", tmp_path / "work", "--until", "verify", "--hub", hub.endpoint)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def built_locally(base: Path, commit: str, out: Path) -> Path:
    drop_map = DropMap({layer: tuple(ids) for layer, ids in DROP.items()})
    name = {"name": BASE, "revision": commit}
    build(plan_build(open_checkpoint(base), drop_map, base_name=name, max_shard_size=20_000_000), base, out)
    return out


def test_with_a_pinned_map_dropped_experts_are_not_downloaded(
    hub: LocalHub, base: Path, commit: str, tmp_path: Path, faults: Faults
) -> None:
    faults.sent = 0
    cut(hub, tmp_path, write_manifest(tmp_path, commit))
    assert digests(tmp_path / "work" / "weights") == digests(built_locally(base, commit, tmp_path / "local"))
    whole = (base / "model.safetensors").stat().st_size
    assert whole / 4 < faults.sent < whole - 20_000_000
    recorded = json.loads((tmp_path / "work" / "inputs.json").read_bytes())["base"]
    assert {name: entry["sha256"] for name, entry in recorded.items()} == digests(base)
    listed = {name for name, entry in recorded.items() if entry.get("listed")}
    assert listed == {name for name in recorded if name.endswith(".safetensors")}, "never read as a whole, and marked so"


def test_a_complete_snapshot_in_the_cache_is_used(
    hub: LocalHub, api: HfApi, commit: str, tmp_path: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    api.snapshot_download(BASE, revision=commit, cache_dir=tmp_path / "cache")
    faults.seen.clear()
    cut(hub, tmp_path, write_manifest(tmp_path, commit))
    assert faults.downloads() == []
    faults.seen.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cut(hub, tmp_path, write_manifest(tmp_path, commit))
    assert faults.seen == []


def test_a_prior_repository_is_compared_without_download(
    hub: LocalHub, api: HfApi, base: Path, commit: str, tmp_path: Path, faults: Faults
) -> None:
    good = upload(api, TARGET, built_locally(base, commit, tmp_path / "local"))
    faults.seen.clear()
    said = cut(hub, tmp_path, write_manifest(tmp_path, commit, f"[{{repo: {TARGET}, revision: {good}}}]"))
    assert f"shards equal to hf://{TARGET}@{good}" in said
    assert not [path for _, path, _ in faults.seen if f"/{TARGET}/resolve/" in path]
    config = tmp_path / "local" / "config.json"
    config.write_text(config.read_text() + "\n")
    bad = upload(api, TARGET, tmp_path / "local")
    said = cut(hub, tmp_path, write_manifest(tmp_path, commit, f"[{{repo: {TARGET}, revision: {bad}}}]"), 1)
    assert f"1 file differs from hf://{TARGET}@{bad}: weights/config.json (changed)" in said


def test_a_prior_that_is_not_there_stops_before_the_build(hub: LocalHub, commit: str, tmp_path: Path) -> None:
    said = cut(hub, tmp_path, write_manifest(tmp_path, commit, f"[{{repo: {TARGET}, revision: {'ab' * 20}}}]"), 3)
    assert "preflight checks" in said
    assert TARGET in said
    assert not (tmp_path / "work" / "weights").exists()
