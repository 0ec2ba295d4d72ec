"""The seconds of each question: from the ledger, whatever happened on the way, and held against their evidence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pruner.errors import InputError
from release.evaluation.evidence import Answered, Evidence
from release.evaluation.ledger import Kind, Reply
from release.evaluation.timing import (
    QuestionSeconds,
    Timing,
    longest_wait,
    misfits,
    read_timing,
    timing_bytes,
    timing_of,
    write_timing,
)
from tests.release.evaluation.conftest import Bench, Faults, MakeProtocol
from tests.release.evaluation.runs import ledger_lines
from tests.release.evaluation.test_evaluation_evidence import answered, digest, evidence

LONGEST = 100.0


def replied(kind: Kind, question: str, repeat: int) -> Reply:
    """A reply whose seconds tell its kind and repeat."""
    seconds = (1.23456 if kind == "raw" else 0.1) + repeat
    return Reply(kind=kind, question=question, prompt="p", attempt=1, seed=1, status=200, error=None, seconds=seconds)


def exam() -> Evidence:
    """Three questions, of which the last was patched."""
    return evidence([answered(0), answered(1), answered(2, correct=False, outcome="empty", patched=True)])


def test_first_replies_and_patches_are_timed_apart():
    found = timing_of(exam(), replied)
    assert [(each.raw, each.patch) for each in found.questions] == [(1.235, None), (1.235, None), (1.235, 0.1)]
    assert [each.question_digest for each in found.questions] == [each.question_digest for each in exam().questions]
    assert (found.protocol_digest, found.model_sha256) == (digest("protocol"), digest("model"))
    assert list(misfits(found, exam(), LONGEST)) == []


def test_each_repeat_has_its_own_seconds():
    repeated = evidence([answered(number, repeat=repeat) for number in (0, 1) for repeat in (0, 1)], repeats=2)
    found = timing_of(repeated, replied)
    assert [(each.repeat, each.raw) for each in found.questions] == [(0, 1.235), (1, 2.235)] * 2
    assert list(misfits(found, repeated, LONGEST)) == []


def test_a_file_is_canonical_and_holds_digests_and_numbers_alone(tmp_path: Path):
    made = timing_of(exam(), replied)
    write_timing(tmp_path / "timing.json", made)
    assert read_timing(tmp_path / "timing.json") == made
    assert (tmp_path / "timing.json").read_bytes() == timing_bytes(made)
    assert json.loads(timing_bytes(made)) == {
        "schema_name": "moe-release/timing/v1",
        "protocol_digest": digest("protocol"),
        "model_sha256": digest("model"),
        "questions": [
            {"question_digest": digest("question 0"), "repeat": 0, "raw": 1.235},
            {"question_digest": digest("question 1"), "repeat": 0, "raw": 1.235},
            {"question_digest": digest("question 2"), "repeat": 0, "raw": 1.235, "patch": 0.1},
        ],
    }


def without(number: int) -> Callable[[Timing], Timing]:
    return lambda made: made.model_copy(
        update={"questions": (*made.questions[:number], *made.questions[number + 1 :])},
    )


def with_question(number: int, **changes: Any) -> Callable[[Timing], Timing]:
    def change(made: Timing) -> Timing:
        rows = list(made.questions)
        rows[number] = rows[number].model_copy(update=changes)
        return made.model_copy(update={"questions": tuple(rows)})

    return change


def longer(made: Timing) -> Timing:
    more = QuestionSeconds(question_digest=digest("x"), raw=1.0)
    return made.model_copy(update={"questions": (*made.questions, more)})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (without(2), "questions.2: is in the evidence alone"),
        (without(0), f"questions.0: is {digest('question 1')[:12]}, repeat 0; the evidence has {digest('question 0')[:12]}"),
        (longer, "questions.3: is not in the evidence"),
        (with_question(1, question_digest=digest("question 0")), f"questions.1: is {digest('question 0')[:12]}, repeat 0;"),
        (with_question(1, repeat=1), "questions.1: is "),
        (with_question(2, patch=None), "questions.2: has no seconds of its patch"),
        (with_question(0, patch=0.5), "questions.0: has seconds of a patch that the evidence has not"),
        (with_question(1, raw=100.001), "questions.1: took 100.001 s, and the protocol's time-out leaves 100 s"),
        (with_question(2, patch=5000.0), "questions.2: took 5,000 s"),
        (lambda made: made.model_copy(update={"model_sha256": "0" * 64}), "model_sha256 is 000"),
        (lambda made: made.model_copy(update={"protocol_digest": "0" * 64}), "protocol_digest is 000"),
    ],
)
def test_seconds_of_other_questions_do_not_fit(change: Callable[[Timing], Timing], problem: str):
    found = list(misfits(change(timing_of(exam(), replied)), exam(), LONGEST))
    assert found[0].startswith(problem)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("questions", 0, "raw"), -0.001),
        (("questions", 0, "raw"), float("nan")),
        (("questions", 0, "raw"), float("inf")),
        (("questions", 0, "raw"), "1.0"),
        (("questions", 0, "raw"), True),
        (("questions", 0, "raw"), None),
        (("questions", 0, "raw"), 2**31),
        (("questions", 2, "patch"), -1),
        (("questions", 0, "repeat"), -1),
        (("questions", 0, "repeat"), 100),
        (("questions", 0, "repeat"), 1.0),
        (("questions", 0, "question_digest"), "x"),
        (("questions", 0, "host"), "gpu-1"),
        (("questions",), []),
        (("schema_name",), "moe-release/timing/v2"),
        (("server",), "/opt/llama-server"),
    ],
)
def test_what_is_no_timing_gets_one_line(tmp_path: Path, path: tuple[Any, ...], value: object):
    content = json.loads(timing_bytes(timing_of(exam(), replied)))
    *parents, last = path
    target = content
    for parent in parents:
        target = target[parent]
    target[last] = value
    (tmp_path / "timing.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"timing\.json: no timing: ") as refused:
        read_timing(tmp_path / "timing.json")
    assert "\n" not in str(refused.value)


def test_a_giant_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_timing(tmp_path / "timing.json", timing_of(exam(), replied))
    monkeypatch.setattr("release.evaluation.timing.LARGEST_TIMING", 10)
    with pytest.raises(InputError, match="the timing is larger than 10 bytes"):
        read_timing(tmp_path / "timing.json")


def expected(folder: Path, rows: tuple[Answered, ...]) -> list[tuple[str, float, float | None]]:
    """The seconds of the last reply of each kind, from the ledger's own lines."""
    last = {(line["kind"], line["question"]): round(line["seconds"], 3) for line in ledger_lines(folder)}
    return [
        (
            each.question_digest,
            last["raw", each.question_digest],
            last["patch", each.question_digest] if each.patched else None,
        )
        for each in rows
    ]


def timed(folder: Path) -> list[tuple[str, float, float | None]]:
    return [(each.question_digest, each.raw, each.patch) for each in read_timing(folder / "timing.json").questions]


@pytest.mark.llama
def test_a_run_writes_the_seconds_of_its_replies_and_a_second_one_the_same_bytes(
    bench: Bench, make_protocol: MakeProtocol, tmp_path: Path
):
    protocol = make_protocol()
    found = bench.run(protocol, tmp_path)
    assert found.patched > 0
    assert timed(tmp_path) == expected(tmp_path, found.questions)
    assert list(misfits(read_timing(tmp_path / "timing.json"), found, longest_wait(protocol))) == []
    once = (tmp_path / "timing.json").read_bytes()
    (tmp_path / "timing.json").unlink()
    bench.run(protocol, tmp_path)
    assert (tmp_path / "timing.json").read_bytes() == once, "the ledger keeps them"
    for word in (b"server", b"Which", str(tmp_path).encode(), b"127.0.0.1"):
        assert word not in once


@pytest.mark.llama
def test_a_limited_run_publishes_no_seconds(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path):
    bench.run(make_protocol(questions=3), tmp_path, limit=2)
    assert (tmp_path / "evidence.partial.json").exists()
    assert not (tmp_path / "timing.json").exists()


@pytest.mark.llama
def test_of_several_attempts_the_one_that_counts_is_timed(
    bench: Bench, make_protocol: MakeProtocol, faults: Faults, tmp_path: Path
):
    faults.set(q2=["busy", "ok"])
    found = bench.run(make_protocol(questions=4), tmp_path, server_binary=faults.binary)
    attempts = [line for line in ledger_lines(tmp_path, "raw") if line["attempt"] == 2]
    assert len(attempts) == 1
    assert timed(tmp_path) == expected(tmp_path, found.questions)


@pytest.mark.parametrize("question", [{}, 1, [], None])
def test_the_first_fault_of_many_is_enough(question: Any):
    """A megabyte of wrong questions would otherwise become a gigabyte of errors."""
    for model, around in ((Timing, timing_of(exam(), replied)), (Evidence, exam())):
        value = {**around.model_dump(mode="json"), "questions": [question] * 10_000}
        with pytest.raises(ValidationError) as refused:
            model.model_validate(value)
        assert refused.value.error_count() < 20
