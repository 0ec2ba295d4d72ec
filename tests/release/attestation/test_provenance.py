"""The statement of how a release was built."""

from __future__ import annotations

import json

import pytest

from pruner.errors import CheckFailedError
from release.attestation.provenance import model_files, provenance
from release.lock import Lock, LockedBase, LockedFile, LockedInputs
from release.manifest import load_manifest
from tests.conftest import MANIFESTS


def lock(*paths: str) -> Lock:
    outputs = {path: LockedFile(sha256=f"{number}" * 64, size=1) for number, path in enumerate(paths)}
    return Lock(name="x", inputs=LockedInputs(base=LockedBase(name="b", files={})), outputs=outputs)


def test_models_alone_are_the_subject() -> None:
    made = lock("weights/config.json", "card/README.md", "gguf/x-Q6_K.gguf", "imatrix/x.gguf", "eval/Q6_K/evidence.json")
    statement = json.loads(provenance(load_manifest(MANIFESTS / "tiny-gemma4-4e.yaml").content, "a" * 64, made))
    assert {each["name"]: each["digest"]["sha256"][0] for each in statement["subject"]} == {
        "config.json": "0",
        "x-Q6_K.gguf": "2",
        "x.gguf": "3",
    }
    assert statement["predicate"]["runDetails"]["builder"]["version"] == {"moe-release": "unknown"}


@pytest.mark.parametrize("other", ["gguf/config.json", "imatrix/config.json"])
def test_no_file_hides_another_of_its_name(other: str) -> None:
    with pytest.raises(CheckFailedError, match=r"config\.json: stands twice among weights, GGUFs and importance matrix"):
        model_files(lock("weights/config.json", other))


def test_what_was_measured_is_a_byproduct() -> None:
    made = lock("weights/config.json", "eval/Q6_K/evidence.json", "eval/Q6_K/timing.json", "quality.json", "card/README.md")
    manifest = load_manifest(MANIFESTS / "tiny-gemma4-4e.yaml").content
    details = json.loads(provenance(manifest, "a" * 64, made))["predicate"]["runDetails"]
    assert {each["name"]: each["digest"]["sha256"][0] for each in details["byproducts"]} == {
        "eval/Q6_K/evidence.json": "1",
        "quality.json": "3",
    }
    assert "byproducts" not in json.loads(provenance(manifest, "a" * 64, lock("weights/x")))["predicate"]["runDetails"]
