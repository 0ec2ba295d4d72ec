"""`moe-release prune BASE DROP_MAP OUT`: a map is made for one base, and bases of one shape take each other's maps."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pruner.checkpoint import METADATA
from pruner.drop_map import DropMap
from release.commands.running import context_of
from release.lock import Lock, LockedBase, LockedFile, LockedInputs, read_lock, write_lock
from release.stages.verify import weights_lock
from tests.conftest import CheckpointFactory, gemma4_config
from tests.digests import digests
from tests.release.test_cli import moe_release

COMMIT, OTHER = "1" * 40, "2" * 40
MANIFEST = """schema: moe-release/v1
name: v
base: {path: base}
prune: {experts: 6, drop_map: {path: map.json}}
"""
DROP = {"0": (1, 2), "1": (0, 3), "2": (6, 7)}


@pytest.fixture
def drop_map(tmp_path: Path) -> Path:
    named = {"base_model": {"name": "org/base", "revision": COMMIT}}
    path = tmp_path / "map.json"
    path.write_text(json.dumps(DropMap(DROP, provenance=named).envelope(8)))
    return path


def snapshot(folder: Path, commit: str) -> Path:
    place = folder.parent / "models--org--base" / "snapshots" / commit
    place.parent.mkdir(parents=True)
    return folder.rename(place)


def locked(folder: Path, revision: str = COMMIT) -> Path:
    files = {
        path.name: LockedFile(sha256=hashlib.sha256(path.read_bytes()).hexdigest(), size=path.stat().st_size)
        for path in folder.iterdir()
    }
    path = folder.parent / "lock.json"
    write_lock(path, Lock(name="v", inputs=LockedInputs(base=LockedBase(name="org/base", revision=revision, files=files))))
    return path


def test_the_named_commit_is_accepted_in_silence(make_checkpoint: CheckpointFactory, drop_map: Path, tmp_path: Path) -> None:
    done = moe_release("prune", snapshot(make_checkpoint(), COMMIT), drop_map, tmp_path / "out", "--json")
    assert (done.returncode, json.loads(done.stdout)["unchecked"]) == (0, None)
    assert "unchecked" not in done.stderr


def test_another_commit_is_refused(make_checkpoint: CheckpointFactory, drop_map: Path, tmp_path: Path) -> None:
    done = moe_release("prune", snapshot(make_checkpoint(), OTHER), drop_map, tmp_path / "out")
    assert done.returncode == 2
    assert "was made for org/base@111111111111, the base is org/base@222222222222" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_plain_folder_is_called_unchecked(make_checkpoint: CheckpointFactory, drop_map: Path, tmp_path: Path) -> None:
    done = moe_release("prune", make_checkpoint(), drop_map, tmp_path / "out", "--json")
    assert done.returncode == 0
    assert "the base is unchecked" in done.stderr
    assert "the base is unchecked" in json.loads(done.stdout)["unchecked"]


def test_a_lock_checks_a_plain_folder(make_checkpoint: CheckpointFactory, drop_map: Path, tmp_path: Path) -> None:
    base = make_checkpoint()
    lock = locked(base)
    done = moe_release("prune", base, drop_map, tmp_path / "out", "--lock", lock)
    assert done.returncode == 0, done.stderr
    assert "unchecked" not in done.stderr
    twin = make_checkpoint("twin", seed=1)
    done = moe_release("prune", twin, drop_map, tmp_path / "wrong", "--lock", lock)
    assert done.returncode == 1
    assert "is pinned; use the pinned base" in done.stderr
    assert [path.name for path in tmp_path.iterdir() if "wrong" in path.name] == []


def test_a_locks_own_map_needs_no_name(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base = make_checkpoint()
    path = locked(base)
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps(DROP))
    done = moe_release("prune", base, bare, tmp_path / "one", "--lock", path)
    assert (done.returncode, "bare.json does not say for which base" in done.stderr) == (0, True)
    lock = read_lock(path)
    assert lock is not None
    inputs = lock.inputs.model_copy(update={"drop_map": {layer: list(ids) for layer, ids in DROP.items()}})
    write_lock(path, lock.model_copy(update={"inputs": inputs}))
    done = moe_release("prune", base, bare, tmp_path / "two", "--lock", path)
    assert (done.returncode, "unchecked" in done.stderr) == (0, False)


def test_the_lock_of_another_base_is_refused(make_checkpoint: CheckpointFactory, drop_map: Path, tmp_path: Path) -> None:
    base = make_checkpoint()
    done = moe_release("prune", base, drop_map, tmp_path / "out", "--lock", locked(base, OTHER))
    assert (done.returncode, "the base is org/base@2222" in done.stderr) == (2, True)
    lock = locked(base)
    (base / "more.json").write_text("{}")
    done = moe_release("prune", base, drop_map, tmp_path / "out", "--lock", lock)
    assert (done.returncode, "pins no digest of the base's more.json" in done.stderr) == (2, True)
    done = moe_release("prune", base, drop_map, tmp_path / "out", "--lock", tmp_path / "none.json")
    assert (done.returncode, "none.json: does not exist; give the lock of a release" in done.stderr) == (2, True)


@pytest.mark.parametrize("weights", ["{max_shard_size: 1KB, metadata: none}", "{max_shard_size: 900B}", "{}"])
def test_a_locks_own_map_is_packed_as_the_lock_has_it(make_checkpoint: CheckpointFactory, tmp_path: Path, weights: str) -> None:
    base, manifest, work = make_checkpoint(), tmp_path / "v.yaml", tmp_path / "work"
    (tmp_path / "map.json").write_text(json.dumps(DROP))
    manifest.write_text(f"{MANIFEST}weights: {weights}\n")
    assert moe_release("cut", manifest, "--work", work, "--until", "verify").returncode == 0
    lock = tmp_path / "v.lock.json"
    write_lock(lock, weights_lock(context_of(manifest, work)))

    def shards_of_prune(out: str, *words: object) -> tuple[dict[str, str], str]:
        done = moe_release("prune", base, tmp_path / "map.json", tmp_path / out, "--lock", lock, *words)
        assert done.returncode == 0, done.stderr
        found = digests(tmp_path / out)
        return {name: digest for name, digest in found.items() if name.endswith(".safetensors")}, done.stderr

    locked = {name: digest for name, digest in digests(work / "weights").items() if name.endswith(".safetensors")}
    assert shards_of_prune("one") == (locked, "")
    metadata = "none" if "none" in weights else "pt"
    assert shards_of_prune("two", "--metadata", metadata) == (locked, "")
    other, said = shards_of_prune("three", "--max-shard-size", "1500")
    assert (len(other), f"the shards are not those of {lock}: leave out --max-shard-size and --metadata" in said) == (3, True)
    assert all((b"__metadata__" in (tmp_path / "three" / name).read_bytes()) is (metadata == "pt") for name in other)
    (tmp_path / "map.json").write_text(json.dumps({**DROP, "0": [1, 3]}))
    other, said = shards_of_prune("four")
    assert (list(other), "the shards are not those" in said) == (["model-00001-of-00001.safetensors"], False)


def test_a_lock_that_does_not_tell_the_layout(make_checkpoint: CheckpointFactory, drop_map: Path, tmp_path: Path) -> None:
    base = make_checkpoint()
    path = locked(base)
    lock = read_lock(path)
    assert lock is not None
    inputs = lock.inputs.model_copy(update={"drop_map": {layer: list(ids) for layer, ids in DROP.items()}})
    shard = {"weights/model-00001-of-00001.safetensors": LockedFile(sha256="0" * 64, size=7)}
    write_lock(path, lock.model_copy(update={"inputs": inputs, "outputs": shard}))
    done = moe_release("prune", base, drop_map, tmp_path / "out", "--lock", path)
    assert done.returncode == 2
    assert "lock.json: does not tell how its shards were packed; give --max-shard-size and --metadata, which" in done.stderr
    assert not (tmp_path / "out").exists()
    done = moe_release(
        "prune", base, drop_map, tmp_path / "out", "--lock", path, "--max-shard-size", "5GiB", "--metadata", "pt"
    )
    assert (done.returncode, "the shards are not those of" in done.stderr) == (0, True)


def test_of_a_plain_folder_and_a_bare_map_no_name_is_published(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """A folder is called what its owner likes; the same bytes under two names give the same variant."""
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps(DROP))
    for name, out in (("base", "one"), ("my-private-copy", "two")):
        assert moe_release("prune", make_checkpoint(name), bare, tmp_path / out).returncode == 0
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert json.loads((tmp_path / "one" / METADATA).read_text())["base_model"] == {}
    done = moe_release("prove", tmp_path / "two", "--base", tmp_path / "base")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("provenance", "message"),
    [
        ({"ranking": {"method": "mine", "note": "see /home/ann/maps/v3.json"}}, "'ranking' holds the path 'see /home/ann/maps"),
        ({"ranking": {"method": ["~/maps"]}}, "'ranking' holds the path"),
        ({"ranking": {"C:\\maps\\v3": 1}}, "'ranking' holds the path"),
        ({"base_model": {"name": "/data/models/base"}}, "'base_model' holds the path '/data/models/base'"),
        ({"ranking": {"method": "reap", "source": "https://arxiv.org/abs/2510.13999", "of": "org/name", "share": "1/2"}}, None),
    ],
)
def test_no_path_of_a_map_is_published(
    make_checkpoint: CheckpointFactory, tmp_path: Path, provenance: dict[str, object], message: str | None
) -> None:
    base, path = make_checkpoint(), tmp_path / "map.json"
    path.write_text(json.dumps(DropMap(DROP, provenance=provenance).envelope(8)))
    (tmp_path / "v.yaml").write_text(MANIFEST)
    done = moe_release("prune", base, path, tmp_path / "out")
    cut = moe_release("prune", tmp_path / "v.yaml", "--work", tmp_path / "work")
    if message is None:
        assert (done.returncode, cut.returncode) == (0, 0), done.stderr + cut.stderr
        assert json.loads((tmp_path / "out" / METADATA).read_text())["method"] == provenance["ranking"]
        return
    assert (done.returncode, message in done.stderr) == (2, True)
    assert not (tmp_path / "out").exists()
    if "ranking" in provenance:  # the manifest says itself what its base is called
        assert (cut.returncode, message in cut.stderr) == (2, True)


def test_what_is_not_copied_is_said(make_checkpoint: CheckpointFactory, drop_map: Path, tmp_path: Path) -> None:
    base = make_checkpoint(config={**gemma4_config(), "auto_map": {"AutoModel": "modeling_x.X"}})
    (base / "modeling_x.py").write_text("raise SystemExit")
    (tmp_path / "v.yaml").write_text(MANIFEST.replace("map.json", drop_map.name))
    done = moe_release("prune", base, drop_map, tmp_path / "out", "--json")
    assert json.loads(done.stdout)["not_copied"] == ["modeling_x.py"]
    said = [done.stderr, moe_release("plan", tmp_path / "v.yaml").stdout]
    for words in said:
        assert "not copied: modeling_x.py" in words
        assert "warning: config.json wants modeling_x.py, code of the base, which is not copied" in words
