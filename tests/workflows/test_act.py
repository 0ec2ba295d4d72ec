"""The workflows under the real act."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from release.hub.local import LocalHub
from tests.conftest import ROOT
from tests.release.verification.releases import last_byte
from tests.small_release import REPO, write_small_release
from tests.workflows.conftest import Act

SLICE = "tests/pruner/test_drop_map.py"


def test_ci_runs_a_slice(act: Act) -> None:
    run = act("ci", "push", SLICE=SLICE)
    assert run.returncode == 0, run.log
    assert any(" passed in " in line for line in run.lines), run.log


def test_ci_fails_with_its_tests(act: Act) -> None:
    run = act("ci", "push", SLICE="tests/no_such_test.py")
    assert run.returncode != 0
    assert any("no_such_test.py" in line for line in run.lines)


@pytest.fixture
def published(tmp_path: Path, command: Path) -> Iterator[tuple[LocalHub, Path]]:
    """A Hub that holds a small release, and its base."""
    manifest = write_small_release(tmp_path)
    words = [command, "cut", manifest, "--work", tmp_path / "work", "--hub", "local"]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    with LocalHub(tmp_path / "hub") as hub:
        yield hub, tmp_path / "tiny/model"


def test_verify_rebuilds_on_every_runner_and_says_what_it_found(act: Act, published: tuple[LocalHub, Path]) -> None:
    hub, base = published
    run = act("verify", "workflow_dispatch", inputs={"target": f"hf://{REPO}"}, BASE=str(base), **hub.environment())
    assert run.returncode == 0, run.log
    assert run.summary.count(f"## hf://{REPO}") == 2  # two runners
    assert run.summary.count("GOOD    weights") == 2


def test_verify_fails_with_what_is_not_good(act: Act, published: tuple[LocalHub, Path], tmp_path: Path) -> None:
    hub, base = published
    other = tmp_path / "other"
    shutil.copytree(base, other)
    for shard in other.glob("*.safetensors"):
        shard.write_bytes(last_byte(shard.read_bytes()))
    run = act("verify", "workflow_dispatch", inputs={"target": f"hf://{REPO}"}, BASE=str(other), **hub.environment())
    assert run.returncode != 0
    assert run.summary.count("UNKNOWN weights") == 2
    assert "is not the file that the release pins" in run.summary


def test_verify_without_published_variants_has_nothing_to_do(act: Act) -> None:
    run = act("verify", "workflow_dispatch")
    assert run.returncode == 0, run.log
    assert not run.summary


@pytest.mark.llama
@pytest.mark.slow
def test_release_rehearses_and_shows_the_results_table(act: Act, tmp_path: Path) -> None:
    inputs = {"manifest": "manifests/tiny-gemma4-4e.yaml", "mode": "rehearse"}
    run = act("release", "workflow_dispatch", inputs=inputs, WORK=str(tmp_path / "works"))
    assert run.returncode == 0, run.log
    assert "| tiny-gemma4-16e | Q6_K | 205 → 211 of 240 |" in run.summary
    assert run.outputs["name"] == "tiny-gemma4-4e"
    assert Path(run.outputs["report"]).read_text().startswith("<!DOCTYPE html>")
    lock = json.loads((tmp_path / "works/tiny-gemma4-4e/lock.json").read_text())
    committed = json.loads((ROOT / "manifests/tiny-gemma4-4e.lock.json").read_text())
    assert lock["outputs"].keys() == committed["outputs"].keys()


def test_release_refuses_another_mode_before_it_builds(act: Act, tmp_path: Path) -> None:
    inputs = {"manifest": "manifests/tiny-gemma4-4e.yaml", "mode": "yolo"}
    run = act("release", "workflow_dispatch", inputs=inputs, WORK=str(tmp_path / "works"))
    assert run.returncode != 0
    assert any("MODE is 'yolo'" in line for line in run.lines), run.log
    assert not (tmp_path / "works").exists()


def test_cards_fail_on_drift(command: Path, tmp_path: Path) -> None:
    """The script itself, with no runner at all: a lock that names another card is drift."""
    manifest = write_small_release(tmp_path)
    environment = {**os.environ, "MOE_RELEASE": str(command), "MANIFESTS": str(manifest), "WORK": str(tmp_path / "works")}
    script = [ROOT / ".github/scripts/cards.sh"]
    first = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    lock = manifest.with_suffix("").with_suffix(".lock.json")
    content = json.loads(lock.read_text())
    content["outputs"]["card/README.md"]["sha256"] = "0" * 64
    lock.write_text(json.dumps(content))
    again = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "card/README.md (changed)" in again.stderr
