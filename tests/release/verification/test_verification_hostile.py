"""A published `reproduce/` as anybody may have written it: verdicts or one line, never a traceback."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruner.files import sha256_file
from pruner.hub_source import HubSource
from release import reproduce
from release.evaluation.evidence import read_evidence, write_evidence
from release.evaluation.ledger import Reply
from release.evaluation.timing import timing_of, write_timing
from release.hub.names import gguf_names
from release.hub.published import Published, PublishedRepository
from release.manifest import load_manifest
from release.verdict import Verification
from release.verification.consistency import check_consistency
from release.verification.evidence import check_evidence
from release.verification.listing import check_files
from release.verification.weights import check_weights
from tests.conftest import FUZZ_TIMES, MANIFESTS
from tests.hostile import FUZZ, assert_read_or_refused, changed_json, changed_yaml

LOCK = json.loads((MANIFESTS / "tiny-gemma4-4e.lock.json").read_text())
LOCK.pop("digest", None)  # or nothing else of a changed lock would be looked at
REPOSITORY = PublishedRepository("org/tiny", HubSource("org/tiny", "c" * 40, {}))
TIMING = reproduce.timing_name("Q6_K")
JSONS = (reproduce.LOCK, reproduce.DROP_MAP, reproduce.evidence_name("Q6_K"), TIMING)
YAMLS = (reproduce.MANIFEST, reproduce.PROTOCOL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a release of the tiny model publishes to repeat it."""
    place = tmp_path / "reproduce"
    shutil.copytree(MANIFESTS / "protocols", place / "protocols")
    shutil.copytree(MANIFESTS / "tiny" / "evidence", place / "evidence")
    shutil.copytree(MANIFESTS / "tiny" / "evidence", place / "tiny" / "evidence")
    shutil.copy(MANIFESTS / "tiny-gemma4-4e.md", place)
    shutil.copy(MANIFESTS / "tiny-gemma4-4e.yaml", tmp_path / reproduce.MANIFEST)
    shutil.copy(place / "protocols" / "tiny-exam.yaml", tmp_path / reproduce.PROTOCOL)
    run = read_evidence(next((place / "evidence").glob("*.json")))
    run = run.model_copy(update={"model_sha256": LOCK["outputs"]["gguf/tiny-gemma4-4e-Q6_K.gguf"]["sha256"]})
    write_evidence(tmp_path / reproduce.evidence_name("Q6_K"), run)
    reply = Reply(kind="raw", question="q", prompt="p", attempt=1, seed=1, status=200, error=None, seconds=0.5)
    write_timing(tmp_path / TIMING, timing_of(run, lambda *_: reply))
    seconds = {"sha256": sha256_file(tmp_path / TIMING), "size": (tmp_path / TIMING).stat().st_size, "varies": True}
    lock = {**LOCK, "outputs": {**LOCK["outputs"], "eval/Q6_K/timing.json": seconds}}
    (tmp_path / reproduce.LOCK).write_text(json.dumps(lock))
    (tmp_path / reproduce.README).write_text(reproduce.page(load_manifest(tmp_path / reproduce.MANIFEST).content))
    (tmp_path / reproduce.DROP_MAP).write_text(json.dumps(LOCK["inputs"]["drop_map"]))
    weights = {name.removeprefix("weights/"): file for name, file in LOCK["outputs"].items() if name.startswith("weights/")}
    (tmp_path / reproduce.SUMS).write_text("".join(f"{file['sha256']}  {name}\n" for name, file in weights.items()))
    return tmp_path


def verified(folder: Path) -> Verification:
    """The verdicts that need no Hub, and their words."""
    published = Published(REPOSITORY, folder)
    checks = [
        check_consistency(published),
        check_files(published),
        check_weights(published, str(folder)),
        check_evidence(published),
    ]
    gguf_names(published.lock)
    found = Verification("hf://org/tiny", "c" * 40, tuple(each for each in checks if each))
    json.dumps(found.to_json()).encode()
    found.text().encode()
    return found


def test_the_sound_one_agrees_with_itself(folder: Path) -> None:
    findings = {finding.part: finding for finding in verified(folder).findings}
    assert findings["consistency"].verdict == "GOOD", findings["consistency"]
    pieces = {name: verdict for name, verdict, _ in findings["evidence"].items}
    assert (pieces[reproduce.evidence_name("Q6_K")], pieces[TIMING]) == ("GOOD", "GOOD")


@settings(FUZZ, max_examples=30 * FUZZ_TIMES)
@given(data=st.data(), name=st.sampled_from([*JSONS, *YAMLS]))
def test_one_changed_file(folder: Path, data: st.DataObject, name: str) -> None:
    path = folder / name
    sound = path.read_bytes()
    strategy = changed_json(json.loads(sound)) if name in JSONS else changed_yaml(sound.decode())
    path.write_bytes(data.draw(strategy))
    try:
        assert_read_or_refused(lambda: verified(folder), "", sum(each.stat().st_size for each in folder.rglob("*")))
    finally:
        path.write_bytes(sound)
