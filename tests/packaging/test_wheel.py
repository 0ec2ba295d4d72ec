"""The wheel, installed without extras in an empty environment: with today's versions, and with the lowest that it allows."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.conftest import MANIFESTS, ROOT
from tests.small_release import write_small_release

pytestmark = pytest.mark.slow

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PIP = (sys.executable, "-m", "pip", "--quiet", "--quiet", "--disable-pip-version-check")


def lowest(requirement: str) -> str:
    """`x>=1.2,<3` as `x==1.2`."""
    return re.sub(r">=([^,]+).*", r"==\1", requirement)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [*PIP, "wheel", "--no-deps", "--wheel-dir", folder, ROOT]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session", params=["newest", "lowest"])
def command(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console script of an environment that holds the wheel and what it requires, nothing else."""
    folder = tmp_path_factory.mktemp(request.param)
    constraints = ROOT / "constraints.txt"
    if request.param == "lowest":
        constraints = folder / "lowest.txt"
        constraints.write_text("\n".join(lowest(each) for each in PROJECT["dependencies"]) + "\n")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    install = [*PIP, "--python", folder / "venv/bin/python", "install", "--constraint", constraints, wheel]
    subprocess.run(install, check=True, capture_output=True)
    return folder / "venv/bin/moe-release"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A variant of the tiny model with a pinned map: no analysis, no quants."""
    return write_small_release(tmp_path)


def run(command: Path, *words: object) -> str:
    """Standard output of a command that must succeed, started where no checkout can be imported."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    folder = command.parent
    result = subprocess.run(
        [command, *map(str, words)], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, f"{words}: {result.stdout}\n{result.stderr}"
    return result.stdout


def test_a_release_without_extras(command: Path, manifest: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    assert "a valid manifest" in run(command, "check", manifest)
    assert "16 to 4 experts" in run(command, "plan", manifest, "--work", work)
    run(command, "prune", manifest, "--work", work)
    published = json.loads(run(command, "cut", manifest, "--work", work, "--hub", "local", "--json"))
    assert {stage["stage"]: stage["status"] for stage in published["stages"]}["readback"] == "done"
    assert "files equal to" in run(command, "verify", manifest, "--work", work)
    card = (work / "card" / "README.md").read_text()
    assert "| Parameters | 3.22 M | 1.44 M |" in card
    proof = json.loads(run(command, "prove", work / "weights", "--base", tmp_path / "tiny/model", "--json"))
    assert proof["good"] is True
    run(command, "prune", tmp_path / "tiny/model", tmp_path / "map.json", tmp_path / "direct", "--max-shard-size", "1MiB")
    for shard in sorted((tmp_path / "direct").glob("*.safetensors")):
        assert shard.read_bytes() == (work / "weights" / shard.name).read_bytes()


def test_what_needs_an_extra_says_which(command: Path, manifest: Path, tmp_path: Path) -> None:
    shutil.copytree(MANIFESTS / "tiny" / "exam", tmp_path / "tiny" / "exam")
    manifest.write_text(
        re.sub(
            r"drop_map: .*",
            "analysis: {dataset: {path: tiny/exam/calibration.jsonl}}\n  ranking: {method: score, alpha: 2}",
            manifest.read_text(),
        )
    )
    result = subprocess.run(
        [command, "analyze", manifest, "--work", tmp_path / "work"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 3
    assert "moe-release[analysis]" in result.stderr
    assert result.stderr.count("moe-release: ") == 1


def test_the_wheel_holds_what_it_needs_and_no_more(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"pruner", "release", f"moe_release-{PROJECT['version']}.dist-info"}
    assert {"release/py.typed", "pruner/py.typed", "release/templates/weights_card.md.j2"} <= set(names)
    templates = {f"release/templates/{path.name}" for path in (ROOT / "templates").iterdir()}
    assert templates <= set(names)


def test_the_source_distribution_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    builder = "import hatchling.build, sys; print(hatchling.build.build_sdist(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", builder, tmp_path], cwd=ROOT, check=True, capture_output=True)
    archive = next(tmp_path.glob("*.tar.gz"))
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path / "source", filter="data")
    source = next((tmp_path / "source").iterdir())
    again = [*PIP, "wheel", "--no-deps", "--wheel-dir", tmp_path / "again", source]
    subprocess.run(again, check=True)
    assert next((tmp_path / "again").glob("*.whl")).read_bytes() == wheel.read_bytes()


def test_every_extra_installs_what_its_commands_import() -> None:
    extras = PROJECT["optional-dependencies"]
    assert any(each.startswith("torch") for each in extras["analysis"])
    assert any(each.startswith("lm-eval") for each in extras["eval"])
