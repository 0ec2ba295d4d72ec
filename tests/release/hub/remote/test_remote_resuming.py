"""A verification that was killed goes on: digests that were computed here are not computed again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pruner.digest_cache import DigestCache
from pruner.drop_map import DropMap
from pruner.hub_source import HubSource, hub_source
from pruner.proof import prove
from pruner.sources import LocalSource
from release.hub.local import LocalHub
from tests.pruner.test_proof import sparse_checkpoint
from tests.release.hub.remote.repositories import BASE, TARGET, Faults, upload
from tests.release.hub.remote.test_remote_release import built_locally

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return sparse_checkpoint(tmp_path / "base", rows=512)


@pytest.fixture
def sources(hub: LocalHub, api: HfApi, base: Path, tmp_path: Path) -> tuple[HubSource, HubSource]:
    commit = upload(api, BASE, base)
    upload(api, TARGET, built_locally(base, commit, tmp_path / "local"))
    where = {"endpoint": hub.endpoint, "token": hub.token}
    return hub_source(TARGET, **where), hub_source(BASE, **where)


def test_a_second_proof_reads_headers_alone(sources: tuple[HubSource, HubSource], faults: Faults, tmp_path: Path) -> None:
    target, base = sources
    cache = DigestCache(tmp_path / "cache")
    faults.sent = 0
    first = prove(target, base, cache=cache)
    assert first.good
    whole = faults.sent
    shards = [verdict for verdict in first.verdicts if verdict.rebuilt]
    assert len(shards) > 1
    assert len(list(cache.folder.iterdir())) == len(shards)
    faults.sent = 0
    assert prove(target, base, cache=cache) == first
    assert faults.sent < whole / 4
    assert whole - faults.sent >= sum(shard.size for shard in shards) / 2
    assert prove(target, base) == first


def test_a_killed_proof_goes_on(sources: tuple[HubSource, HubSource], faults: Faults, tmp_path: Path) -> None:
    target, base = sources
    cache = DigestCache(tmp_path / "cache")
    whole = prove(target, base, cache=cache)
    kept = sorted(cache.folder.iterdir())
    kept[0].unlink()  # as if the run had been killed before this shard
    faults.sent = 0
    assert prove(target, base, cache=cache) == whole
    assert sorted(cache.folder.iterdir()) == kept
    assert 0 < faults.sent < sum(verdict.size for verdict in whole.verdicts if verdict.rebuilt)


def test_a_remembered_digest_decides_nothing_about_a_target(sources: tuple[HubSource, HubSource], tmp_path: Path) -> None:
    target, base = sources
    cache = DigestCache(tmp_path / "cache")
    prove(target, base, cache=cache)
    from dataclasses import replace

    name = next(name for name in target.files if name.endswith(".safetensors"))
    forged = replace(target, files={**target.files, name: replace(target.files[name], sha256="0" * 64)})
    bad = [verdict.name for verdict in prove(forged, base, cache=cache).verdicts if not verdict.good]
    assert bad == [name]


@pytest.mark.parametrize("damage", [b"", b"x" * 64, b"\xff" * 64, b"0" * 64 + b"\n\n"])
def test_a_damaged_memory_is_ignored(sources: tuple[HubSource, HubSource], tmp_path: Path, damage: bytes) -> None:
    target, base = sources
    cache = DigestCache(tmp_path / "cache")
    prove(target, base, cache=cache)
    for path in cache.folder.iterdir():
        path.write_bytes(damage)
    assert prove(target, base, cache=cache).good


def test_another_base_or_map_has_another_memory(
    sources: tuple[HubSource, HubSource], base: Path, tmp_path: Path, api: HfApi, hub: LocalHub
) -> None:
    from pruner.build import build
    from pruner.checkpoint import open_checkpoint
    from pruner.plan import plan_build

    target, remote = sources
    cache = DigestCache(tmp_path / "cache")
    prove(target, remote, cache=cache)
    before = len(list(cache.folder.iterdir()))
    other = DropMap({"0": (0, 2, 7)})
    plan = plan_build(open_checkpoint(base), other, base_name={"name": BASE}, max_shard_size=20_000_000)
    build(plan, base, tmp_path / "other")
    upload(api, "org/other", tmp_path / "other")
    where = {"endpoint": hub.endpoint, "token": hub.token}
    assert prove(hub_source("org/other", **where), remote, cache=cache).good
    assert len(list(cache.folder.iterdir())) > before


def test_a_folder_is_always_read(base: Path, tmp_path: Path, sources: tuple[HubSource, HubSource]) -> None:
    cache = DigestCache(tmp_path / "cache")
    assert prove(sources[0], LocalSource(base), cache=cache).verdicts
    assert not cache.folder.exists()


def test_a_full_disk_costs_only_time(sources: tuple[HubSource, HubSource], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert prove(*sources, cache=DigestCache(tmp_path / "cache" / "x")).good
