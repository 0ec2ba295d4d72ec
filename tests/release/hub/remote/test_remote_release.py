"""A manifest whose base and prior builds are repositories."""

from __future__ import annotations

import json
from collections.abc import Callable
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


def cut_copy(hub: LocalHub, manifest: Path, work: Path, copy: Path, code: int = 0) -> str:
    done = run_cli(hub, "cut", manifest, "--work", work, "--base", copy, "--until", "lock", "--hub", hub.endpoint)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_a_copy_of_the_base_is_compared_with_the_hub_and_then_with_the_lock(
    hub: LocalHub, base: Path, commit: str, tmp_path: Path, faults: Faults
) -> None:
    manifest = write_manifest(tmp_path, commit)
    (base / "own.bin").write_text("not copied by a build, so it may lie there")
    faults.sent = 0
    cut_copy(hub, manifest, tmp_path / "work", base)
    assert faults.sent < 1_000_000, "the copy is read, the Hub's headers and list are asked"
    assert digests(tmp_path / "work" / "weights") == digests(built_locally(base, commit, tmp_path / "local"))
    lock = json.loads((tmp_path / "sparse.lock.json").read_bytes())
    assert (lock["inputs"]["base"]["name"], lock["inputs"]["base"]["revision"]) == (BASE, commit)
    cut_copy(hub, manifest, tmp_path / "again", base)
    faults.status = lambda: 500  # a lock stands: nobody has to be asked
    shard = base / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x7f")
    said = cut_copy(hub, manifest, tmp_path / "other", base, 1)
    assert "base file model.safetensors has SHA-256" in said


def lost(base: Path) -> None:
    (base / "generation_config.json").unlink()


def added(base: Path) -> None:
    (base / "tokenizer_config.json").write_text("{}")


def changed_shard(base: Path) -> None:
    path = base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")


def changed_config(base: Path) -> None:
    path = base / "config.json"
    path.write_text(path.read_text() + "\n")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lost, "generation_config.json: is no copy of {base}: is missing; fetch it"),
        (added, "tokenizer_config.json: is no copy of {base}: is not of it; remove the file"),
        (changed_shard, "model.safetensors: is no copy of {base}: has SHA-256 "),
        (changed_config, "config.json: is no copy of {base}: has other bytes than the Hub lists; fetch it again"),
    ],
)
def test_what_is_no_copy_of_the_base_is_refused_before_a_first_lock(
    hub: LocalHub, api: HfApi, base: Path, tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    (base / "generation_config.json").write_text("{}")
    commit = upload(api, BASE, base, private=True)
    change(base)
    found = cut_copy(hub, write_manifest(tmp_path, commit), tmp_path / "work", base, 1)
    assert said.format(base=f"{BASE}@{commit}") in found
    assert not (tmp_path / "work" / "weights").exists()
    assert not (tmp_path / "sparse.lock.json").exists()


def test_another_way_to_read_the_base_changes_no_lock(hub: LocalHub, base: Path, commit: str, tmp_path: Path) -> None:
    manifest, where = write_manifest(tmp_path, commit), ("--until", "lock", "--hub", hub.endpoint)
    locks = []
    for copy in ((), ("--base", base), ()):
        work = tmp_path / f"work-{len(locks)}"
        done = run_cli(hub, "cut", manifest, "--work", work, *copy, *where)
        assert done.returncode == 0, done.stderr
        locks.append((work / "lock.json").read_bytes())
    assert b'"listed": true' in locks[0]
    assert locks[0] == locks[1] == locks[2]
    done = run_cli(hub, "cut", manifest, "--work", tmp_path / "new", "--base", base, "--update-lock", *where)
    assert done.returncode == 0, done.stderr
    assert b'"listed"' not in (tmp_path / "new" / "lock.json").read_bytes()
