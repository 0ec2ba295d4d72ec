"""The scripts of the workflows with no runner at all, as a person starts them."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from release.hub.local import LocalHub
from release.hub.remote import hub_api
from tests.conftest import MANIFESTS, ROOT
from tests.digests import spoil_lock
from tests.shared import TINY, tiny_release
from tests.small_release import NAME, REPO, write_small_release
from tests.workflows.conftest import Script

HEADERS = "gemma-4-A4B-109e-v3"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_small_release(tmp_path)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    with LocalHub(tmp_path / "hub") as hub:
        yield hub


def outputs(text: str) -> dict[str, str]:
    """What a script handed on; on the screen when there is no runner."""
    return dict(re.findall(r"^(name|report|artifacts)=(.*)$", text, re.MULTILINE))


def lock_of(manifest: Path) -> Path:
    return manifest.with_suffix(".lock.json")


def test_a_release_is_published_and_its_lock_kept(script: Script, manifest: Path, hub: LocalHub, tmp_path: Path) -> None:
    """Without quants and exam: there is no table, and nothing is missed."""
    done = script("release", MANIFEST=str(manifest), MODE="publish", **hub.environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert hub_api(hub.endpoint, hub.token).file_exists(REPO, "model.safetensors.index.json")
    kept = tmp_path / "kept" / NAME
    assert outputs(done.stdout) == {
        "name": NAME,
        "report": str(tmp_path / "works" / NAME / "report.html"),
        "artifacts": str(kept),
    }
    assert (kept / f"{NAME}.lock.json").read_bytes() == lock_of(manifest).read_bytes()
    assert (kept / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_a_release_is_proposed(script: Script, manifest: Path, hub: LocalHub) -> None:
    api = hub_api(hub.endpoint, hub.token)
    api.create_repo(REPO)
    done = script("release", MANIFEST=str(manifest), MODE="pr", **hub.environment())
    assert done.returncode == 0, done.stdout + done.stderr
    (proposed,) = api.get_repo_discussions(REPO, discussion_type="pull_request")
    assert proposed.status == "open"
    assert not api.file_exists(REPO, "model.safetensors.index.json")


def test_a_rehearsal_needs_no_token(script: Script, manifest: Path, hub: LocalHub, tmp_path: Path) -> None:
    done = script("release", MANIFEST=str(manifest), MODE="rehearse", HF_ENDPOINT=hub.endpoint, HF_TOKEN="")
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    assert (tmp_path / "kept" / NAME / "card" / "README.md").is_file()
    assert not lock_of(manifest).exists()
    assert list(hub_api(hub.endpoint, hub.token).list_models()) == []


def test_a_release_that_stops_shows_why_and_keeps_what_it_made(script: Script, manifest: Path, tmp_path: Path) -> None:
    words = {"MANIFEST": str(manifest), "MODE": "publish", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "hf_x"}
    done = script("release", GITHUB_STEP_SUMMARY=str(tmp_path / "summary"), GITHUB_OUTPUT=str(tmp_path / "output"), **words)
    assert done.returncode == 3
    summary = (tmp_path / "summary").read_text()
    assert summary.startswith(f"## {NAME}: publish\n```\n")
    assert "moe-release: " in summary
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("text", ["schema: [", "schema: moe-release/v1\nnam: x\n", "", None])
def test_a_manifest_that_cannot_be_used_is_one_line(script: Script, tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "m.yaml"
    if text is not None:
        path.write_text(text)
    done = script("release", MANIFEST=str(path), MODE="publish")
    assert done.returncode == 2
    assert done.stderr.startswith(f"moe-release: {path}")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not (tmp_path / "works").exists()


def test_what_the_screen_is_redirected_to_is_not_overwritten(script: Script) -> None:
    """Written to /dev/stdout by name, a file would be opened again, from its beginning."""
    with tempfile.TemporaryFile("w+") as file:
        file.write("said before\n")
        file.flush()
        environment = {"PATH": os.environ["PATH"], "TARGET": "hf://org/m@v1"}
        subprocess.run([ROOT / ".github/scripts/targets.sh"], stdout=file, env=environment, check=True)
        file.seek(0)
        assert file.read() == 'said before\ntargets=["hf://org/m@v1"]\n'


def test_cards_fail_on_drift(script: Script, manifest: Path, tmp_path: Path) -> None:
    first = script("cards", MANIFESTS=str(manifest))
    assert first.returncode == 0, first.stderr
    spoil_lock(lock_of(manifest), "card/README.md")
    again = script("cards", MANIFESTS=str(manifest))
    assert again.returncode == 1
    assert "card/README.md (changed)" in again.stderr
    assert (tmp_path / "kept" / NAME / "card/README.md").is_file()


def test_a_card_from_headers_must_be_the_golden_one(script: Script, tmp_path: Path) -> None:
    shutil.copytree(MANIFESTS, tmp_path / "manifests", ignore=shutil.ignore_patterns("tiny"))
    manifest = tmp_path / "manifests" / f"{HEADERS}.yaml"
    done = script("cards", MANIFESTS=str(manifest))
    assert done.returncode == 0, done.stdout + done.stderr
    manifest.write_text(manifest.read_text().replace("correct: 152, total: 198, percent: 76.77", "correct: 151, total: 198"))
    again = script("cards", MANIFESTS=str(manifest))
    assert again.returncode == 1
    assert "\n-| gemma-4-A4B-120e-v3 † | Q6_K | 152 of 198 |" in again.stdout
    assert "\n+| gemma-4-A4B-120e-v3 † | Q6_K | 151 of 198 |" in again.stdout


@pytest.mark.llama
@pytest.mark.slow
def test_all_cards_are_as_locked_and_drift_of_a_table_is_found(
    script: Script, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    finished = tiny_release(tmp_path_factory).folder / "build" / TINY  # only its card is to be made again
    shutil.copytree(finished, tmp_path / "works" / TINY, ignore=shutil.ignore_patterns(".lock", "card"))
    done = script("cards")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| tiny-gemma4-16e | Q6_K | 205 → 211 of 240 |" in done.stdout
    rendered = {path.parent.parent.name for path in (tmp_path / "kept").glob("*/*/README.md")}
    with_card = {path.stem for path in MANIFESTS.glob("*.yaml")} - {"tiny-gemma4-16e"}  # a base has none
    assert rendered == with_card
    shutil.copytree(MANIFESTS, tmp_path / "manifests")
    manifest = tmp_path / "manifests" / "tiny-gemma4-4e.yaml"
    shutil.copy(tmp_path / "works/tiny-gemma4-4e/lock.json", lock_of(manifest))  # another processor would explain a difference
    spoil_lock(lock_of(manifest), "card/results.md")
    again = script("cards", MANIFESTS=str(manifest))
    assert again.returncode == 1
    assert "card/results.md (changed)" in again.stderr


@pytest.mark.parametrize("terminal", [True, False])
def test_what_a_command_says_is_kept_and_progress_stays_on_a_terminal(tmp_path: Path, *, terminal: bool) -> None:
    command = 'if [ -t 2 ]; then echo bars >&2; else echo lines >&2; fi; echo "a verdict"; exit 3'
    words = ["bash", "-c", f'source .github/scripts/environment.sh; said {tmp_path}/kept sh -c "$COMMAND"']
    environment = {"PATH": os.environ["PATH"], "MOE_RELEASE": "none", "COMMAND": command}
    ours, theirs = pty.openpty()
    screen = theirs if terminal else subprocess.PIPE
    done = subprocess.run(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=screen, text=True, check=False)
    shown = os.read(ours, 1000).decode() if terminal else ""
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 3
    assert shown.strip() == ("bars" if terminal else "")
    assert (tmp_path / "kept").read_text() == done.stdout == ("a verdict\n" if terminal else "lines\na verdict\n")


@pytest.mark.parametrize(
    ("name", "given", "made"),
    [
        ("release", {"MANIFEST": "m.yaml", "MODE": "pr"}, "setup toolchain"),
        ("verify", {"TARGET": "hf://org/m@v1", "REQUANTIZE": "yes"}, "setup toolchain"),
        ("verify", {"TARGET": "hf://org/m@v1", "REQUANTIZE": "no"}, "setup"),
        ("hf-job", {"TASK": "verify", "TARGET": "hf://org/m@v1"}, "setup"),
    ],
)
def test_a_script_sets_up_what_it_needs(script: Script, tmp_path: Path, name: str, given: dict[str, str], made: str) -> None:
    """No llama.cpp is built where none is used; that takes minutes."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "make").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/made\nexit 7\n')
    (tmp_path / "bin" / "make").chmod(0o755)
    done = script(name, MOE_RELEASE="", PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}", **given)
    assert done.returncode == 7
    assert (tmp_path / "made").read_text() == f"{made}\n"


def test_a_slice_of_the_tests_runs_and_fails_as_they_do(script: Script) -> None:
    done = script("ci", SLICE="tests/pruner/test_drop_map.py", PYTHON=sys.executable)
    assert done.returncode == 0, done.stdout
    assert " passed in " in done.stdout
    assert script("ci", SLICE="tests/no_such_test.py", PYTHON=sys.executable).returncode == 4


@pytest.mark.parametrize(
    ("published", "targets"), [("[]", []), ('["hf://org/m@v1", "hf://org/n"]', ["hf://org/m@v1", "hf://org/n"])]
)
def test_the_published_variants_are_the_matrix(script: Script, tmp_path: Path, published: str, targets: list[str]) -> None:
    (tmp_path / "published.json").write_text(published)
    done = script("targets", PUBLISHED=str(tmp_path / "published.json"), GITHUB_OUTPUT=str(tmp_path / "output"))
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "output").read_text().removeprefix("targets=")) == targets


@pytest.mark.parametrize("published", ["[", "{}", '["org/m"]', '["hf://org/m; x"]', None])
def test_a_list_of_something_else_is_refused(script: Script, tmp_path: Path, published: str | None) -> None:
    if published is not None:
        (tmp_path / "published.json").write_text(published)
    done = script("targets", PUBLISHED=str(tmp_path / "published.json"))
    assert done.returncode == 2
    assert done.stderr.startswith("targets.sh: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
