"""Runs of cross-fitted variants are one score: each question by the variant that did not see it, or no score at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from pruner.errors import CheckFailedError, InputError
from pruner.folds import fold_of
from release.card.table import Entry, rows
from release.cli import app
from release.evaluation.compare import compare
from release.evaluation.cross_fit import cross_fit
from release.evaluation.data import digest_of_questions
from release.evaluation.evidence import (
    Calibration,
    Evidence,
    read_evidence,
    repeated_from,
    require_whole,
    write_evidence,
)
from release.evaluation.folds import Fold
from release.evaluation.protocol import Protocol, load_protocol, protocol_digest
from release.evaluation.report import compare_runs
from tests.conftest import MANIFESTS

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


def part(index: int, *, count: int = COUNT, left_out: int = 0, **changes: Any) -> Evidence:
    """What `eval --fold` makes: the questions of one fold alone, all rightly answered."""
    own = [number for number, each in enumerate(DIGESTS) if fold_of(each, count) == index][left_out:]
    seen = tuple(each for each in DIGESTS if fold_of(each, count) != index)
    mark = Fold(index=index, count=count, exam=QUESTIONS, exam_digest=digest_of_questions(DIGESTS))
    made: dict[str, Any] = {
        "partial": True,
        "fold": mark,
        "calibration": Calibration(questions=len(seen), questions_digest=digest("set"), overlap=seen),
        "model_sha256": digest(f"model {index}"),
    }
    return evidence([answered(number, patched=None) for number in own], **(made | changes))


@pytest.fixture
def protocol() -> Protocol:
    """The tiny protocol for the questions of these runs."""
    found = load_protocol(MANIFESTS / "protocols" / "tiny-exam.yaml", MANIFESTS)
    options = {"option_columns": (*"abcd",), "correct_column": "a"}
    data = found.data.model_copy(update={"questions": QUESTIONS, "question_digests": None, **options})
    return found.model_copy(update={"data": data})


def following(protocol: Protocol, **changes: Any) -> dict[str, Any]:
    """What a run repeats of a protocol that it follows."""
    return {"protocol": protocol.name, "protocol_digest": protocol_digest(protocol), **repeated_from(protocol), **changes}


def test_runs_of_folds_are_one_score_in_whatever_order(protocol: Protocol) -> None:
    same = following(protocol)
    found = cross_fit({"c": part(2, **same), "a": part(0, **same), "b": part(1, **same)}, protocol)
    assert [each.run for each in found.parts] == ["a", "b", "c"]
    assert (found.total, found.raw_correct, found.seen) == (QUESTIONS, QUESTIONS, QUESTIONS)
    whole = cross_fit({name: run(fold, **same) for fold, name in enumerate("abc")}, protocol)
    assert found == whole, "which is the score that whole runs give"


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ((part(0), part(1)), "fold 2 of 3 is missing; run its variant with `moe-release eval --fold 2/3`"),
        ((part(0), part(1), part(2), part(1)), "b and d are both fold 1 of 3"),
        ((part(0), part(1), part(1, count=4)), "c is fold 1 of 4, and b is of another number of folds"),
        ((part(0), part(1), run(2)), "c is no run of one fold, others are"),
        ((part(0), part(1), part(2, left_out=1)), "39 questions together, which are not the 40 of the exam"),
        ((part(0), part(1), part(2, quant="Q8_0")), "c and a differ in quant"),
        ((part(0), part(1), part(2, calibration=None)), "c does not say what its map was made from"),
    ],
)
def test_folds_that_are_no_whole_exam(folds: tuple[Evidence, ...], message: str, protocol: Protocol) -> None:
    with pytest.raises(CheckFailedError, match=message):
        cross_fit(dict(zip("abcd", folds, strict=False)), protocol)


def test_a_fold_of_another_exam_or_that_saw_its_own_is_refused(protocol: Protocol) -> None:
    same = following(protocol)
    mark = Fold(index=2, count=COUNT, exam=QUESTIONS + 1, exam_digest=digest("other exam"))
    with pytest.raises(CheckFailedError, match="c and a differ in exam"):
        cross_fit({"a": part(0, **same), "b": part(1, **same), "c": part(2, **same, fold=mark)}, protocol)
    own = next(each for each in DIGESTS if fold_of(each, COUNT) == 1)
    saw = Calibration(questions=1, questions_digest=digest("set"), overlap=(own,))
    with pytest.raises(CheckFailedError, match="b saw 1 question of fold 1 of 3"):
        cross_fit({"a": part(0, **same), "b": part(1, **same, calibration=saw), "c": part(2, **same)}, protocol)


def test_gates_hold_for_the_folds_together(protocol: Protocol) -> None:
    """One fold may have more bad replies than the limit; all of them together may not."""
    parts = {name: part(fold, **following(protocol)) for fold, name in enumerate("abc")}
    with pytest.raises(InputError, match="a is of one fold, whose gates hold for all folds together; name the protocol"):
        cross_fit(parts)
    narrow = protocol.model_copy(update={"max_tokens": protocol.server.context - 1})
    with pytest.raises(CheckFailedError, match="the joined run followed tiny-exam"):
        cross_fit(parts, narrow)
    parts = {name: part(fold, **following(narrow)) for fold, name in enumerate("abc")}
    with pytest.raises(CheckFailedError, match="no evidence under protocol tiny-exam: context: the longest prompt"):
        cross_fit(parts, narrow)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"partial": False}, "fold 1 of 3 is said to be the whole exam"),
        ({"fold": Fold(index=2, count=3, exam=40, exam_digest=digest("x"))}, "a question is not of fold 2 of 3"),
        ({"fold": Fold(index=1, count=3, exam=1, exam_digest=digest("x"))}, "more questions than the whole exam"),
    ],
)
def test_a_fold_that_says_what_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        part(1, **changes)


def test_a_fold_is_never_a_whole_run(tmp_path: Path) -> None:
    write_evidence(tmp_path / "fold.json", part(1))
    found = read_evidence(tmp_path / "fold.json")
    assert found == part(1)
    with pytest.raises(CheckFailedError, match=r"the run is only fold 1 of 3 of an exam \(\d+ questions\); join all folds"):
        require_whole(found, "the run")
    with pytest.raises(CheckFailedError, match="is only fold 1 of 3 of an exam"):
        compare(found, found)
    with pytest.raises(CheckFailedError, match="partial run, which can never stand on a card"):
        rows([Entry("x", "fold.json", evidence=found)])
    write_evidence(tmp_path / "other.json", run(0, protocol_digest=digest("other")))
    with pytest.raises(CheckFailedError, match=r"fold\.json is only fold 1 of 3 of an exam"):
        compare_runs([tmp_path / "other.json", tmp_path / "fold.json"], allow_different_protocols=True)


def test_the_same_file_twice_is_no_two_folds(tmp_path: Path) -> None:
    write_evidence(tmp_path / "fold.json", part(1))
    with pytest.raises(InputError, match="the same file is named twice"):
        CliRunner().invoke(app, ["cross-fit", *[str(tmp_path / "fold.json")] * 2], catch_exceptions=False)


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
