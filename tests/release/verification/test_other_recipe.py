"""Weights that were made by another recipe than the release shows, and bases that are not the pinned one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pruner.errors import UnavailableError
from pruner.files import canonical_json, sha256_bytes
from release import reproduce
from release.attestation.provenance import provenance
from release.hub.remote import hub_api
from release.lock import read_lock
from release.manifest import load_manifest
from release.verdict import Verdict
from tests.conftest import ROOT
from tests.end_to_end.conftest import run_command
from tests.release.verification.releases import DROPPED, PublishedRelease, Stage, last_byte, part, publish_small

OTHER = {**DROPPED, "2": [0, *range(5, 16)]}
METADATA = "expert_drop_metadata.json"


@pytest.fixture(scope="session")
def other_release(tmp_path_factory: pytest.TempPathFactory) -> PublishedRelease:
    """The same release with another expert of layer 2."""
    return publish_small(tmp_path_factory.mktemp("other"), OTHER)


@pytest.fixture
def forged(other_release: PublishedRelease, small: Stage, tmp_path: Path) -> Iterator[Stage]:
    """The other weights under this recipe: every record that speaks of a map shows the pinned one, and agrees with the rest."""
    (tmp_path / "forged").mkdir()
    with other_release.staged(tmp_path / "forged") as stage:
        lock = json.loads(stage.read(reproduce.LOCK))
        lock.pop("digest")
        honest = json.loads(small.read(reproduce.LOCK))
        lock["inputs"] = honest["inputs"]
        lock["outputs"]["drop_map.json"] = honest["outputs"]["drop_map.json"]
        for name in (reproduce.MANIFEST, reproduce.DROP_MAP, "reproduce/map.json", "reproduce/rebuilders.json"):
            data = small.read(name)
            (tmp_path / Path(name).name).write_bytes(data)
            if data != stage.read(name):
                stage.write(name, data)
        (tmp_path / "lock.json").write_bytes(canonical_json(lock))
        made = read_lock(tmp_path / "lock.json")
        assert made is not None
        manifest = load_manifest(tmp_path / "manifest.yaml")
        stage.write(reproduce.LOCK, canonical_json(lock))
        stage.write(reproduce.PROVENANCE, provenance(manifest.content, sha256_bytes(small.read(reproduce.MANIFEST)), made))
        yield stage


def test_weights_of_another_map_than_the_release_shows_are_bad(forged: Stage) -> None:
    found = forged.verify()
    assert part(found, "consistency").verdict is Verdict.GOOD, "the records agree with each other"
    assert part(found, "files").verdict is Verdict.GOOD, "and with the repository"
    weights = part(found, "weights")
    assert weights.verdict is Verdict.BAD
    assert weights.reason == f"{METADATA}: drops other experts than reproduce/drop_map.json says, first in layer 2"
    assert found.exit_code == 1


def test_nobody_attests_that_they_follow_it(forged: Stage) -> None:
    made = forged.attested("alice")
    assert made.verdict == "BAD"
    assert "first in layer 2" in made.statement["predicate"]["reason"]
    assert made.statement["predicate"]["rebuilt"] == {}


def test_a_map_that_is_not_the_manifests_is_bad(small: Stage) -> None:
    small.write(reproduce.DROP_MAP, json.dumps(OTHER).encode())
    small.change_json(reproduce.LOCK, lambda lock: lock["inputs"].update(drop_map=OTHER))
    found = part(small.verify(), "consistency")
    assert found.reason.startswith(
        "reproduce/drop_map.json: drops other experts than the manifest's map.json, first in layer 2"
    )


def test_another_base_in_the_metadata_is_bad(small: Stage) -> None:
    small.change_json(METADATA, lambda metadata: metadata["base_model"].update(name="somebody/else"))
    weights = part(small.verify(), "weights")
    assert weights.verdict is Verdict.BAD
    assert weights.reason.startswith(f"{METADATA}: ")


def spoiled(stage: Stage) -> Path:
    """A copy of the base, one byte of each shard flipped."""
    other = stage.work / "other"
    shutil.copytree(stage.base, other)
    for path in other.glob("*.safetensors"):
        path.write_bytes(last_byte(path.read_bytes()))
    return other


def test_nothing_is_stated_of_another_base(small: Stage) -> None:
    with pytest.raises(UnavailableError, match=r"^other/model\S* is not the file that the release pins; give another copy"):
        small.attested("alice", base=str(spoiled(small)))
    assert small.attested("alice").verdict == "GOOD"


def verified(stage: Stage, base: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code and parts by name of the command, whose own Hub is the test's: a base by address comes from there."""
    words = ("verify", stage.address, "--base", base, "--json")
    done = run_command(*words, check=False, **stage.hub.environment(), PYTHONPATH=str(ROOT))
    return done.returncode, {each["part"]: each for each in json.loads(done.stdout)["parts"]}


def test_another_base_on_the_hub_accuses_nobody(small: Stage) -> None:
    api = hub_api(small.hub.endpoint, small.hub.token)
    for repo, folder in (("org/spoiled", spoiled(small)), ("org/mirror", small.base)):
        api.create_repo(repo)
        api.upload_folder(repo_id=repo, folder_path=folder)
    for address in ("hf://org/spoiled", small.address):  # other bytes, and another shape
        code, parts = verified(small, address)
        assert code == 3
        for name in ("weights", "card"):
            assert parts[name]["verdict"] == "UNKNOWN"
            assert parts[name]["reason"].endswith(" is not the file that the release pins; give another copy of the base")
    assert verified(small, "hf://org/mirror")[0] == 0
