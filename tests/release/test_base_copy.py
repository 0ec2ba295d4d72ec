"""A user's own copy of the base, wherever it lies."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from release.lock import read_lock
from tests.digests import digests
from tests.end_to_end.conftest import run_command
from tests.release.verification.releases import last_byte
from tests.small_release import write_small_release


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A small release whose base was moved out of its folder."""
    (tmp_path / "release").mkdir()
    path = write_small_release(tmp_path / "release")
    shutil.move(path.parent / "tiny" / "model", tmp_path / "elsewhere")
    return path


@pytest.fixture
def elsewhere(manifest: Path) -> Path:
    return manifest.parents[1] / "elsewhere"


def cut(manifest: Path, work: Path, *words: str | Path, check: bool = True, **environment: str) -> str:
    done = run_command("cut", manifest, "--work", work, "--until", "lock", *words, check=check, **environment)
    return done.stdout + done.stderr


def test_a_release_is_cut_checked_and_planned_from_it(manifest: Path, elsewhere: Path, tmp_path: Path) -> None:
    assert "no folder beside the manifest; or give --base FOLDER" in run_command("check", manifest, check=False).stderr
    run_command("check", manifest, "--base", elsewhere)
    assert "16 to 4 experts" in run_command("plan", manifest, "--base", elsewhere).stdout
    cut(manifest, tmp_path / "work", "--base", elsewhere)
    lock = read_lock(manifest.parent / "packaged-4e.lock.json")
    assert lock is not None
    assert lock.inputs.base.name == "tiny-gemma4-16e"
    assert {name: file.sha256 for name, file in lock.inputs.base.files.items()}.items() <= digests(elsewhere).items()
    shutil.copytree(elsewhere, manifest.parent / "tiny" / "model")
    cut(manifest, tmp_path / "again")  # as the manifest says, under the same lock
    assert digests(tmp_path / "again" / "weights") == digests(tmp_path / "work" / "weights")


def test_the_environment_names_it_for_every_command(manifest: Path, elsewhere: Path, tmp_path: Path) -> None:
    cut(manifest, tmp_path / "work", MOE_RELEASE_BASE=str(elsewhere))
    done = run_command("verify", manifest, "--work", tmp_path / "work", MOE_RELEASE_BASE=str(elsewhere))
    assert "10 files equal to: build, lock" in done.stdout
    run_command("prune", manifest, "--work", tmp_path / "prune", MOE_RELEASE_BASE=str(elsewhere))
    assert digests(tmp_path / "prune" / "weights") == digests(tmp_path / "work" / "weights")


def test_another_base_is_refused_by_the_lock(manifest: Path, elsewhere: Path, tmp_path: Path) -> None:
    cut(manifest, tmp_path / "work", "--base", elsewhere)
    shard = max(elsewhere.glob("*.safetensors"))
    shard.write_bytes(last_byte(shard.read_bytes()))
    said = cut(manifest, tmp_path / "other", "--base", elsewhere, check=False)
    assert f"base file {shard.name} has SHA-256" in said
    assert not (tmp_path / "other" / "weights").exists()


def test_what_is_no_folder_is_named(manifest: Path, tmp_path: Path) -> None:
    done = run_command("check", manifest, "--base", tmp_path / "nowhere", check=False)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("nowhere: is no folder")


def test_a_path_out_of_the_folder_hints_at_the_option(manifest: Path, elsewhere: Path) -> None:
    manifest.write_text(manifest.read_text().replace("path: tiny/model", "path: ../elsewhere"))
    done = run_command("check", manifest, check=False)
    assert done.returncode == 2
    assert "packaged-4e.yaml:3:" in done.stderr
    assert "a base that lies elsewhere is given with --base FOLDER" in done.stderr
    run_command("check", manifest, "--base", elsewhere)
