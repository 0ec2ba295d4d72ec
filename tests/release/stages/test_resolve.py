"""A large base is digested once on a machine, and a bit of it that rots is found all the same."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pruner.sources import LocalSource
from tests.conftest import CheckpointFactory
from tests.digests import digests
from tests.release.test_flipped_bits import flipped, run

MANIFEST = "schema: moe-release/v1\nname: v\nbase: {path: base}\nprune: {experts: 6, drop_map: {path: map.json}}\n"
MAP = '{"0": [1, 2], "1": [0, 3], "2": [6, 7]}'


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Bytes of each file of a folder that were read since it was cleared."""
    counts: dict[str, int] = {}
    blocks = LocalSource.blocks

    def counted(source: LocalSource, name: str, start: int, length: int) -> object:
        for block in blocks(source, name, start, length):
            counts[name] = counts.get(name, 0) + len(block)
            yield block

    monkeypatch.setattr(LocalSource, "blocks", counted)
    return counts


@pytest.fixture
def manifest(make_checkpoint: CheckpointFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A release whose shards count as large, on a machine that remembers nothing yet."""
    shards = make_checkpoint().glob("*.safetensors")
    monkeypatch.setattr("pruner.digest_cache.LARGE", min(path.stat().st_size for path in shards))
    monkeypatch.setenv("MOE_RELEASE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "map.json").write_text(MAP)
    (tmp_path / "v.yaml").write_text(MANIFEST)
    return tmp_path / "v.yaml"


def cut(manifest: Path, work: str) -> tuple[int, str]:
    return run("cut", manifest, "--work", manifest.parent / work, "--until", "verify")


def test_a_new_work_folder_digests_no_shard_again(manifest: Path, tmp_path: Path, read: dict[str, int]) -> None:
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "base").glob("*.safetensors")}
    seen = []
    for work in ("one", "two", "three"):
        read.clear()
        assert run("cut", manifest, "--work", tmp_path / work, "--until", "resolve")[0] == 0
        seen.append({name: read[name] for name in sizes})
    first, second, third = seen
    assert {name: first[name] - second[name] for name in sizes} == sizes, "headers are read each time"
    assert second == third
    assert json.loads((tmp_path / "two" / "inputs.json").read_bytes())["remembered"] == sorted(sizes)
    for work in ("one", "two"):
        assert cut(manifest, work)[0] == 0
    assert digests(tmp_path / "one" / "weights") == digests(tmp_path / "two" / "weights")


def test_a_bit_that_rots_is_found_where_nothing_shows_it(manifest: Path, tmp_path: Path) -> None:
    assert cut(manifest, "one")[0] == 0
    shard = max((tmp_path / "base").glob("*.safetensors"))
    stamps = shard.stat()
    with flipped(shard, 8 * (stamps.st_size - 1)):
        os.utime(shard, ns=(stamps.st_atime_ns, stamps.st_mtime_ns))
        _pretend_untouched(tmp_path / "cache", shard)
        code, said = cut(manifest, "two")
        assert (code, f"{shard.name}: has SHA-256" in said) == (1, True)
        assert not (tmp_path / "two" / "weights").exists()
        assert cut(manifest, "two")[0] == 0, "what was remembered is forgotten, and nothing pins the base"
        assert digests(tmp_path / "two" / "weights") != digests(tmp_path / "one" / "weights")


def _pretend_untouched(cache: Path, shard: Path) -> None:
    """A disk that loses a bit changes no time stamp; a test that writes one changes ctime, so the memory is moved after it."""
    from pruner.digest_cache import FileDigestCache

    known = FileDigestCache(cache / "base-digests")
    right = {path.read_text() for path in known.folder.iterdir()}
    other = digests(shard.parent)
    (lost,) = right - set(other.values())
    assert known.digest(shard, lambda: lost) == (lost, False)
    assert known.digest(shard, lambda: "not asked") == (lost, True)


def test_a_file_that_is_written_to_while_it_is_read_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pruner.digest_cache import FileDigestCache

    monkeypatch.setattr("pruner.digest_cache.LARGE", 1)
    path, known = tmp_path / "x", FileDigestCache(tmp_path / "cache")
    path.write_bytes(b"one")

    def disturbed() -> str:
        path.write_bytes(b"three")
        return "0" * 64

    assert known.digest(path, disturbed) == ("0" * 64, False)
    assert known.digest(path, lambda: "1" * 64) == ("1" * 64, False)
    assert known.digest(path, lambda: "2" * 64) == ("1" * 64, True)
    known.forget(path)
    assert known.digest(path, lambda: "2" * 64) == ("2" * 64, False)
