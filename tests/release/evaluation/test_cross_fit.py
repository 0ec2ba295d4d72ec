"""Runs of cross-fitted variants are one score: each question by the variant that did not see it, or no score at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pruner.errors import CheckFailedError, InputError
from pruner.folds import fold_of
from release.cli import app
from release.evaluation.cross_fit import cross_fit
from release.evaluation.evidence import Calibration, Evidence, write_evidence

from .test_evaluation_evidence import answered, digest, evidence

QUESTIONS, COUNT = 40, 3
DIGESTS = [answered(number).question_digest for number in range(QUESTIONS)]


def run(fold: int, *, saw: list[str] | None = None, right: bool = True, **changes: Any) -> Evidence:
    """A variant that answers the questions of its own fold rightly, and all others wrongly."""
    questions = [
        answered(number, correct=right and fold_of(each, COUNT) == fold, patched=None) for number, each in enumerate(DIGESTS)
    ]
    seen = [each for each in DIGESTS if fold_of(each, COUNT) != fold] if saw is None else saw
    calibration = Calibration(questions=len(seen), questions_digest=digest("set"), overlap=tuple(seen))
    return evidence(questions, **{"calibration": calibration, "model_sha256": digest(f"model {fold}"), **changes})


def test_each_question_is_scored_by_the_variant_that_did_not_see_it() -> None:
    found = cross_fit({"a": run(0), "b": run(1, right=False), "c": run(2)})
    own = [sum(fold_of(each, COUNT) == fold for each in DIGESTS) for fold in range(COUNT)]
    assert min(own) > 0
    assert [part.total for part in found.parts] == own
    assert [part.raw_correct for part in found.parts] == [own[0], 0, own[2]]
    assert (found.total, found.raw_correct, found.patched_correct) == (QUESTIONS, own[0] + own[2], own[0] + own[2])
    assert found.raw_interval.low < found.raw_correct / QUESTIONS < found.raw_interval.high
    assert found.seen == QUESTIONS
    assert f"raw {found.raw_correct / QUESTIONS:.1%} ({found.raw_correct} of {QUESTIONS}, 95 % interval" in found.text()


def test_a_run_that_saw_a_question_of_its_fold_is_refused() -> None:
    own = [each for each in DIGESTS if fold_of(each, COUNT) == 1]
    with pytest.raises(CheckFailedError, match="cross-fit: b saw 1 question of fold 1 of 3; give one run for each fold"):
        cross_fit({"a": run(0), "b": run(1, saw=own[:1]), "c": run(2)})
    with pytest.raises(CheckFailedError, match=r"a saw \d+ questions of fold 0 of 3"):
        cross_fit({"a": run(1), "b": run(0), "c": run(2)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calibration": None}, "c does not say what its map was made from; name it in prune.calibration"),
        ({"partial": True}, "c is partial"),
        ({"quant": "Q8_0"}, "c and a differ in quant"),
        ({"protocol_digest": digest("other")}, "c and a differ in protocol_digest"),
    ],
)
def test_runs_that_are_no_one_score(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckFailedError, match=message):
        cross_fit({"a": run(0), "b": run(1), "c": run(2, **changes)})


def test_one_run_is_no_fold() -> None:
    with pytest.raises(InputError, match="give the evidence of every fold, two or more"):
        cross_fit({"a": run(0)})


def test_the_command_reads_evidence_files(tmp_path: Path) -> None:
    paths = []
    for fold in range(COUNT):
        paths.append(str(tmp_path / f"fold-{fold}.json"))
        write_evidence(Path(paths[-1]), run(fold))
    said = CliRunner().invoke(app, ["cross-fit", *paths], catch_exceptions=False)
    assert f"raw 100.0% ({QUESTIONS} of {QUESTIONS}," in said.stdout
    assert f"{QUESTIONS} questions are in the calibration set; no variant answers one that it saw" in said.stdout
    made = json.loads(CliRunner().invoke(app, ["cross-fit", *paths, "--json"], catch_exceptions=False).stdout)
    assert (made["raw_correct"], len(made["parts"])) == (QUESTIONS, COUNT)
