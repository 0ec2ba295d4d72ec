"""What must hold of every workflow: no logic in YAML, least rights, and scripts that a person can run too."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
SCRIPTS = sorted((GITHUB / "scripts").glob("*.sh"))
TOOLS = Path(sys.executable).parent
CHECKOUT = re.compile(r"actions/checkout@[0-9a-f]{40}")
UPLOAD = re.compile(r"actions/upload-artifact@[0-9a-f]{40}")
"""Only an action can keep files of a run: no script gets the token for it."""


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in load(path)["jobs"].values() for step in job["steps"]]


def test_the_workflows_are_the_four_that_are_documented() -> None:
    assert [path.stem for path in WORKFLOWS] == ["cards", "ci", "release", "verify"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_step_is_checkout_or_one_script_or_keeps_what_it_made(path: Path) -> None:
    for step in steps(path):
        if UPLOAD.fullmatch(step.get("uses", "")):
            assert step["if"] == "${{ !cancelled() }}", "what a failed run made is what one wants to see"
            assert step["with"] == {"name": path.stem, "path": "build/artifacts", "if-no-files-found": "ignore"}
        elif "uses" in step:
            assert CHECKOUT.fullmatch(step["uses"])
            assert step["with"] == {"persist-credentials": False}
        else:
            script = ROOT / step["run"]
            assert script in SCRIPTS, f"{path.name}: {step['run']!r} is logic in YAML"
            assert os.access(script, os.X_OK)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_rights_are_the_least_and_secrets_only_environment(path: Path) -> None:
    content = load(path)
    assert content["permissions"] == {"contents": "read"}
    assert all("permissions" not in job and "timeout-minutes" in job for job in content["jobs"].values())
    for step in steps(path):
        assert "secrets." not in str(step.get("run")) + str(step.get("with"))


def test_cards_are_rendered_when_anything_that_makes_them_changes() -> None:
    watched = load(GITHUB / "workflows" / "cards.yml")[True]["pull_request"]["paths"]  # YAML reads `on` as true
    words = "import sys, release.stages.card, release.stages.lock, release.actions.header_card; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    ours = [each.replace(".", "/") + ".py" for each in loaded if each.startswith(("release.", "pruner."))]
    files = [*ours, "manifests/tiny-gemma4-4e.yaml", "templates/weights_card.md.j2", "constraints.txt"]
    assert len(ours) > 50
    assert [each for each in files if not any(fnmatch(each, pattern) for pattern in watched)] == []


def test_zizmor_finds_nothing() -> None:
    result = subprocess.run(
        [TOOLS / "zizmor", "--offline", "--no-progress", "--format=plain", GITHUB], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_zizmor_would_find_a_template_injection(tmp_path: Path) -> None:
    hostile = (
        (GITHUB / "workflows" / "release.yml").read_text().replace(".github/scripts/release.sh", "cut ${{ inputs.manifest }}")
    )
    (tmp_path / "release.yml").write_text(hostile)
    result = subprocess.run(
        [TOOLS / "zizmor", "--offline", "--no-progress", "--format=plain", tmp_path / "release.yml"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode != 0
    assert "template-injection" in result.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path: Path) -> None:
    result = subprocess.run(
        [TOOLS / "shellcheck", "--external-sources", "--source-path=SCRIPTDIR", path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("script", "environment", "complaint"),
    [
        ("release.sh", {}, "release.sh: set MANIFEST: the variant's YAML file"),
        (
            "release.sh",
            {"MANIFEST": "m.yaml", "MODE": "yolo"},
            "release.sh: MODE is 'yolo'; it must be rehearse, pr or publish",
        ),
        ("verify.sh", {}, "verify.sh: set TARGET: hf://org/name@revision"),
    ],
)
def test_a_script_without_its_input_says_what_to_set(script: str, environment: dict[str, str], complaint: str) -> None:
    result = subprocess.run(
        [GITHUB / "scripts" / script],
        env={"PATH": os.environ["PATH"], "MOE_RELEASE": "true", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr == complaint + "\n"
    assert result.stdout == ""
