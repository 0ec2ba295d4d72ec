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
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from release.hub.local import LocalHub
from tests.conftest import MANIFESTS, ROOT
from tests.small_release import REPO, write_small_release

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
        constraints = lowest_versions(folder, PROJECT["dependencies"])
    return installed(folder, str(wheel), constraints)


@pytest.fixture(scope="session")
def attesting(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console script with the extra for signatures, whose own requirements are as low as it allows."""
    folder = tmp_path_factory.mktemp("attest")
    return installed(folder, f"{wheel}[attest]", lowest_versions(folder, PROJECT["optional-dependencies"]["attest"]))


def lowest_versions(folder: Path, requirements: list[str]) -> Path:
    """A constraints file that pins each to the lowest version that it allows."""
    path = folder / "lowest.txt"
    path.write_text("\n".join(lowest(each) for each in requirements) + "\n")
    return path


def installed(folder: Path, what: str, constraints: Path) -> Path:
    """Install into a new environment in `folder`; returns the console script."""
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    install = [*PIP, "--python", folder / "venv/bin/python", "install", "--constraint", constraints, what]
    subprocess.run(install, check=True, capture_output=True)
    return folder / "venv/bin/moe-release"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A variant of the tiny model with a pinned map: no analysis, no quants."""
    return write_small_release(tmp_path)


def run(command: Path, *words: object, **given: str) -> str:
    """Standard output of a command that must succeed, started where no checkout can be imported."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | given
    folder = command.parent
    result = subprocess.run(
        [command, *map(str, words)], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=1700
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


def test_signatures_with_the_lowest_versions_of_their_extra(attesting: Path, manifest: Path, tmp_path: Path) -> None:
    keys = {"publisher": ec.generate_private_key(ec.SECP256R1()), "ada": ed25519.Ed25519PrivateKey.generate()}
    for name, key in keys.items():
        (tmp_path / f"{name}.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    base = ("--base", tmp_path / "tiny/model")
    with LocalHub(tmp_path / "hub") as hub:
        run(attesting, "cut", manifest, "--work", tmp_path / "w", "--sign", tmp_path / "publisher.pem", **hub.environment())
        said = run(attesting, "verify", f"hf://{REPO}", *base, **hub.environment())
        assert "GOOD    signature" in said
        said = run(attesting, "attest", f"hf://{REPO}", *base, "--key", tmp_path / "ada.pem", **hub.environment())
        assert said.startswith("GOOD: proposed attestations/")
    python = attesting.with_name("python")
    run(python, "-c", "import release.attestation.keyless as keyless; keyless._require_library()")


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
