"""The analyze stage: what it says of the questions that it left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pruner.errors import InputError
from pruner.statistics import read_statistics
from release.context import Context, Options
from release.manifest import load_manifest
from release.pipeline import run_pipeline

pytest.importorskip("torch", reason="needs the analysis extra")
pytestmark = pytest.mark.torch

QUESTIONS = 5


@pytest.fixture
def folder(tmp_path: Path, manifests: Path) -> Path:
    """A manifest's folder with five questions, of which the second has no reasoning."""
    shutil.copytree(manifests / "tiny" / "model", tmp_path / "base")
    lines = (manifests / "tiny/exam/calibration.jsonl").read_text(encoding="utf-8").splitlines()[:QUESTIONS]
    lines[1] = json.dumps(json.loads(lines[1]) | {"Explanation": " "})
    (tmp_path / "c.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def measured(folder: Path, choice: str) -> tuple[int, int, str]:
    """Questions that were measured, tokens of the second one's reply, and what the stage said."""
    (folder / "x.yaml").write_text(
        "schema: moe-release/v1\nname: x\nbase: {path: base}\n"
        f"prune: {{experts: 4, analysis: {{dataset: c.jsonl, without_reasoning: {choice}}}}}\n"
    )
    context = Context(load_manifest(folder / "x.yaml"), folder / choice, Options(until="analyze", workers=1))
    detail = run_pipeline(context)[-1].detail
    statistics = read_statistics(folder / choice / "expert_statistics.safetensors")
    return len(statistics), int(statistics.answer_tokens[1]), detail


def test_questions_without_reasoning(folder: Path) -> None:
    with pytest.raises(InputError, match=r"c\.jsonl:2: column 'Explanation' is missing or no text"):
        measured(folder, "refuse")
    questions, reply, said = measured(folder, "skip")
    assert questions == QUESTIONS - 1
    assert said.endswith(", 1 without reasoning left out")
    every, alone, said = measured(folder, "answer_only")
    assert every == QUESTIONS
    assert 0 < alone < reply
    assert said.endswith(", 1 without reasoning measured by their answer alone")
