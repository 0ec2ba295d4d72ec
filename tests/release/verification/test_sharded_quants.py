"""A quant in shards, with an exam that asks each question twice: evidence, card and the exam taken again are of all of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pruner.errors import UnavailableError
from pruner.files import sha256_bytes
from release.gguf.toolchain import find_toolchain
from release.verdict import Verdict
from tests.conftest import MANIFESTS, ROOT
from tests.end_to_end.conftest import run_command
from tests.release.verification.releases import DROPPED, PublishedRelease, Stage, part

pytestmark = [pytest.mark.llama, pytest.mark.torch, pytest.mark.slow]

REPO, QUESTIONS = "moe-release/sharded-4e", 12
EVIDENCE = "reproduce/evidence/Q6_K.json"
MANIFEST = f"""schema: moe-release/v1
name: sharded-4e
base: {{path: tiny/model, name: tiny-gemma4-16e}}
prune: {{experts: 4, drop_map: {{path: map.json}}}}
weights: {{max_shard_size: 1MiB}}
gguf: {{threads: 1, quants: [Q6_K], max_shard_size: 1MB}}
eval: {{protocol: exam.yaml, quants: [Q6_K]}}
card: {{license: apache-2.0}}
publish: {{weights: {REPO}, gguf: {REPO}-GGUF, private: false}}
"""


@pytest.fixture(scope="session")
def sharded_release(tmp_path_factory: pytest.TempPathFactory) -> PublishedRelease:
    try:
        find_toolchain()
    except UnavailableError as error:
        pytest.skip(f"no llama.cpp: {error}")
    folder = tmp_path_factory.mktemp("sharded")
    shutil.copytree(MANIFESTS / "tiny" / "model", folder / "tiny" / "model")
    (folder / "map.json").write_text(json.dumps(DROPPED))
    lines = (MANIFESTS / "tiny" / "exam" / "held_out.jsonl").read_bytes().splitlines(keepends=True)
    data = b"".join(lines[:QUESTIONS])
    (folder / "questions.jsonl").write_bytes(data)
    protocol = yaml.safe_load((MANIFESTS / "protocols" / "tiny-exam.yaml").read_text())
    protocol["data"] |= {"path": "questions.jsonl", "questions": QUESTIONS, "sha256": sha256_bytes(data)}
    protocol["repeats"], protocol["sampling"]["temperature"] = 2, 0.7
    protocol["gates"] = dict.fromkeys(protocol["gates"], 1.0)
    (folder / "exam.yaml").write_text(yaml.safe_dump(protocol))
    manifest = folder / "sharded-4e.yaml"
    manifest.write_text(MANIFEST)
    run_command("cut", manifest, "--work", folder / "build/sharded", "--hub", "local", PYTHONPATH=str(ROOT))
    return PublishedRelease(REPO, folder / "tiny/model", folder / "build/hub", manifest)


@pytest.fixture
def sharded(sharded_release: PublishedRelease, tmp_path: Path) -> Iterator[Stage]:
    with sharded_release.staged(tmp_path) as stage:
        yield stage


def test_an_honest_release_is_good_and_its_exam_can_be_taken_again(sharded: Stage, sharded_release: PublishedRelease) -> None:
    outputs = json.loads(sharded.read("reproduce/lock.json"))["outputs"]
    shards = [path for path in outputs if path.startswith("gguf/")]
    assert len(shards) > 1
    questions = sharded_release.manifest.parent / "questions.jsonl"
    found = sharded.verify(exam=True, exam_data=questions)
    for name in ("consistency", "files", "weights", "evidence", "card", "exam"):
        assert part(found, name).verdict is Verdict.GOOD, found.text()
    assert part(found, "exam").reason.endswith(f"of {2 * QUESTIONS}, the same evidence byte for byte")
    evidence = json.loads(sharded.read(EVIDENCE))
    assert (evidence["repeats"], len(evidence["questions"])) == (2, 2 * QUESTIONS)
    assert evidence["raw_error"] > 0


def test_evidence_of_one_of_the_shards_is_bad(sharded: Stage) -> None:
    outputs = json.loads(sharded.read("reproduce/lock.json"))["outputs"]
    first = min(path for path in outputs if path.startswith("gguf/"))
    sharded.change_json(EVIDENCE, lambda evidence: evidence.update(model_sha256=outputs[first]["sha256"]))
    evidence = part(sharded.verify(), "evidence")
    assert evidence.verdict is Verdict.BAD
    assert "is a run of a model with SHA-256" in evidence.reason
