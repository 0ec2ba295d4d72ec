"""Evidence that does not add up is none; comparisons are paired and say what they are worth."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pruner.errors import CheckFailedError, InputError
from release.evaluation.compare import compare
from release.evaluation.data import digest_of_questions
from release.evaluation.differences import differing_evidence
from release.evaluation.evidence import (
    Answered,
    Evidence,
    Patched,
    evidence_bytes,
    read_evidence,
    require_complete,
    totals,
    write_evidence,
)
from release.evaluation.gates import failed_gates, require_gates, require_reference
from release.evaluation.protocol import load_protocol, protocol_digest
from release.evaluation.stats import minimum_detectable_difference

from .runs import cherry_picked


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def answered(
    number: int, *, correct: bool = True, outcome: str = "valid", patched: bool | None = None, **changes: Any
) -> Answered:
    value: dict[str, Any] = {
        "id": f"q{number}",
        "question_digest": digest(f"question {number}"),
        "prompt_digest": digest(f"prompt {number}"),
        "option_order": (0, 1, 2, 3),
        "target": "D",
        "outcome": outcome,
        "cause": {"valid": None, "truncated": "length", "failed": "http"}.get(outcome, "no answer"),
        "looping": False,
        "raw_letter": "D" if correct else "A" if outcome == "valid" else None,
        "raw_correct": correct,
        "finish_reason": {"truncated": "length", "failed": None}.get(outcome, "stop"),
        "prompt_tokens": 60,
        "completion_tokens": 20,
        "reply_digest": digest("reply"),
        "patched": None
        if patched is None
        else Patched(letter="D" if patched else "A", correct=patched, reply_digest=digest("x")),
    }
    return Answered.model_validate(value | changes)


def evidence(questions: Sequence[Answered], **changes: Any) -> Evidence:
    value: dict[str, Any] = {
        "partial": False,
        "protocol": "p",
        "protocol_digest": digest("protocol"),
        "model_file": "tiny-Q6_K.gguf",
        "model_sha256": digest("model"),
        "quant": "Q6_K",
        "toolchain_commit": "0c1e570",
        "chat_template_sha256": digest("template"),
        "lm_eval": "0.4.13",
        "task": "t",
        "task_version": 2.2,
        "metric": "exact_match",
        "filter": "flexible-extract",
        "data_sha256": digest("data"),
        "questions_digest": digest_of_questions([*{each.question_digest for each in questions}]),
        "patch_method": "prefill-v1",
        "patch_outcomes": ("empty", "truncated", "failed"),
        "questions": tuple(questions),
        **totals(tuple(questions)),
    }
    return Evidence.model_validate(value | changes)


def seed_card() -> list[Answered]:
    """198 questions as the seed card has them: 154 right, 34 wrong, 10 without an answer of which the patch gets 5."""
    right = [answered(number) for number in range(154)]
    wrong = [answered(number, correct=False) for number in range(154, 188)]
    empty = [answered(number, correct=False, outcome="empty", patched=number < 193) for number in range(188, 198)]
    return right + wrong + empty


def test_totals_of_the_seed_card_add_up():
    found = evidence(seed_card())
    assert (found.raw_correct, found.patched, found.patched_right, found.patched_correct) == (154, 10, 5, 159)
    assert found.patched_luck == 2.5
    assert (found.patched_interval.low, found.patched_interval.high) == pytest.approx((0.742, 0.852), abs=5e-4)
    assert found.outcomes == {"valid": 188, "empty": 10, "truncated": 0, "unparsable": 0, "failed": 0}


def test_evidence_survives_a_file_byte_for_byte(tmp_path: Path):
    found = evidence(seed_card())
    write_evidence(tmp_path / "evidence.json", found)
    assert read_evidence(tmp_path / "evidence.json") == found
    assert (tmp_path / "evidence.json").read_bytes() == evidence_bytes(found)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("raw_correct", 160, "raw_correct is 160, its questions give 154"),
        ("patched_correct", 160, "patched_correct is 160"),
        ("total", 200, "total is 200"),
        ("outcomes", {"valid": 198, "empty": 0, "truncated": 0, "unparsable": 0, "failed": 0}, "outcomes is"),
        ("outcomes", {"valid": 188, "empty": 9}, "outcomes is"),
        ("patched_right", 6, "patched_right is 6"),
        ("patch_outcomes", ["failed"], "patched whose outcome the protocol does not name"),
        ("patched_interval", {"low": 0.8, "high": 0.9}, "patched_interval is"),
    ],
)
def test_evidence_that_does_not_add_up_is_refused(tmp_path: Path, name: str, value: Any, message: str):
    path = tmp_path / "evidence.json"
    path.write_text(json.dumps(json.loads(evidence_bytes(evidence(seed_card()))) | {name: value}))
    with pytest.raises(CheckFailedError, match=f"does not add up: .*{message}"):
        read_evidence(path)


def test_a_file_that_is_no_evidence_gets_one_line(tmp_path: Path):
    path = tmp_path / "evidence.json"
    for content, message in [("{}", "no evidence: partial"), ("[]", "no evidence"), ("{", "not JSON")]:
        path.write_text(content)
        with pytest.raises(InputError, match=message):
            read_evidence(path)
    with pytest.raises(InputError, match="does not exist"):
        read_evidence(tmp_path / "none.json")


def test_a_replaced_letter_of_a_truncated_reply_is_accounted_for():
    questions = [answered(0, outcome="truncated", patched=False), answered(1)]
    found = evidence(questions)
    assert (found.raw_correct, found.raw_correct_replaced, found.patched_right, found.patched_correct) == (2, 1, 0, 1)


def test_the_calibrations_overlap_stands_in_the_evidence(tmp_path: Path):
    calibration = {"questions": 196, "questions_digest": digest("all"), "overlap": (digest("question 1"),)}
    found = evidence([answered(0), answered(1)], calibration=calibration)
    write_evidence(tmp_path / "evidence.json", found)
    assert read_evidence(tmp_path / "evidence.json") == found
    assert json.loads(evidence_bytes(found))["calibration"]["overlap"] == [digest("question 1")]
    assert b"calibration" not in evidence_bytes(evidence([answered(0)]))
    assert b"unverified" not in evidence_bytes(evidence([answered(0)]))
    assert b"tokenizer" not in evidence_bytes(evidence([answered(0)]))
    with pytest.raises(ValidationError, match="overlaps with questions that were not asked"):
        evidence([answered(0)], calibration=calibration)


def test_a_reference_run_of_the_same_protocol_is_a_gate(manifests: Path):
    tiny = load_protocol(manifests / "protocols" / "tiny-exam.yaml", manifests)
    require_reference(tiny, None)
    gates = tiny.gates.model_copy(update={"reference": True})
    strict = tiny.model_copy(update={"gates": gates})
    whole = read_evidence(manifests / "tiny" / "evidence" / "tiny-gemma4-16e-Q6_K.json")
    good = whole.model_copy(update={"protocol_digest": protocol_digest(strict)})
    require_reference(strict, good)
    with pytest.raises(CheckFailedError, match=r"the reference run of .*: questions is 211, the protocol has 240"):
        require_reference(strict, cherry_picked(good))
    with pytest.raises(CheckFailedError, match="wants a reference run beside the score"):
        require_reference(strict, None)
    with pytest.raises(CheckFailedError, match=r"followed p \(.*evaluate it under the same protocol"):
        require_reference(strict, evidence([answered(0)]))
    with pytest.raises(CheckFailedError, match="is partial"):
        require_reference(strict, good.model_copy(update={"partial": True}))


def test_evidence_must_be_of_every_question_of_its_protocol(manifests: Path, tmp_path: Path):
    protocol = load_protocol(manifests / "protocols" / "tiny-exam.yaml", manifests)
    whole = read_evidence(manifests / "tiny" / "evidence" / "tiny-gemma4-16e-Q6_K.json")
    require_complete(whole, protocol, "the run")
    write_evidence(tmp_path / "evidence.json", cherry_picked(whole))
    picked = read_evidence(tmp_path / "evidence.json")
    assert (picked.patched_correct, picked.total) == (211, 211), "it adds up, as a perfect score"
    with pytest.raises(CheckFailedError, match="the run is not the exam of tiny-exam: questions is 211, the protocol has 240"):
        require_complete(picked, protocol, "the run")
    pinned = protocol.model_copy(update={"data": protocol.data.model_copy(update={"question_digests": "0" * 64})})
    with pytest.raises(CheckFailedError, match="not the exam of tiny-exam: questions_digest is"):
        require_complete(whole.model_copy(update={"protocol_digest": protocol_digest(pinned)}), pinned, "the run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"partial": True}, r"the run is partial \(240 questions\)"),
        ({"protocol_digest": digest("other")}, r"the run followed tiny-exam \(.*\), not tiny-exam \("),
        ({"repeats": 2}, "questions is 120, the protocol has 240"),
        ({"data_sha256": digest("other")}, "data_sha256 is"),
        ({"filter": "strict-match"}, "filter is strict-match, the protocol has flexible-extract"),
        ({"patch_method": "continue-v1"}, "patch_method is continue-v1, the protocol has prefill-v1"),
    ],
)
def test_evidence_must_be_what_its_protocol_says(manifests: Path, changes: dict[str, Any], message: str):
    protocol = load_protocol(manifests / "protocols" / "tiny-exam.yaml", manifests)
    whole = read_evidence(manifests / "tiny" / "evidence" / "tiny-gemma4-16e-Q6_K.json")
    with pytest.raises(CheckFailedError, match=message):
        require_complete(whole.model_copy(update=changes), protocol, "the run")


def test_a_question_cannot_be_its_own_evidence_twice():
    with pytest.raises(ValidationError, match="appears twice"):
        evidence([answered(0), answered(0)])


def test_three_of_198_is_no_detectable_difference():
    base = [answered(number, correct=number < 162) for number in range(198)]
    other = [answered(number, correct=number < 159) for number in range(198)]
    found = compare(evidence(base), evidence(other, model_sha256=digest("other")))
    assert found.words == "no detectable difference (3 of 198; p = 0.25; 198 questions can show 6.3 pp)"
    assert (found.patched.only_a, found.patched.only_b, found.patched.difference) == (3, 0, -3)
    assert found.differing == ()


def test_a_clear_difference_says_which_way():
    base = [answered(number, correct=number < 150) for number in range(198)]
    other = [answered(number, correct=number < 170) for number in range(198)]
    assert compare(evidence(base), evidence(other)).words == "better (20 of 198; p = 2e-06; 198 questions can show 6.3 pp)"
    assert compare(evidence(other), evidence(base)).words.startswith("worse (20 of 198;")


def test_what_an_exam_can_show_follows_from_how_often_the_runs_differ():
    """A tenth of the questions is expected to differ; here a fifth does, which hides more."""
    base = [answered(number, correct=number % 10 != 0) for number in range(200)]
    other = [answered(number, correct=number % 10 != 1) for number in range(200)]
    found = compare(evidence(base), evidence(other))
    assert found.words == "no detectable difference (0 of 200; p = 1; 200 questions can show 8.8 pp)"
    assert (found.discordance, found.patched.discordance) == (0.2, 0.2)
    assert found.detectable == pytest.approx(minimum_detectable_difference(200, 0.2), abs=1e-6)
    same = compare(evidence(base), evidence(base))
    assert (same.discordance, json.loads(same.model_dump_json())["raw"]["discordance"]) == (0.1, 0.1)


def test_raw_and_patched_are_compared_side_by_side():
    found = compare(evidence(seed_card()), evidence([answered(number) for number in range(198)]))
    assert (found.raw.correct_a, found.raw.correct_b) == (154, 198)
    assert (found.patched.correct_a, found.patched.only_b) == (159, 39)


def test_what_else_differs_is_named():
    questions = [answered(number) for number in range(20)]
    found = compare(evidence(questions), evidence(questions, toolchain_commit="fffffff", quant="Q4_K_M"))
    assert found.differing == ("toolchain_commit: 0c1e570 and fffffff", "quant: Q6_K and Q4_K_M")
    assert found.words == "no detectable difference (0 of 20; p = 1; 20 questions can show none)"
    known = [evidence(questions, tokenizer_sha256=digest(name)) for name in ("one", "other")]
    assert compare(evidence(questions), known[0]).differing == (), "older evidence does not tell it"
    assert compare(*known).differing == (f"tokenizer_sha256: {digest('one')} and {digest('other')}",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol_digest": digest("another")}, "follow different protocols"),
        ({"partial": True}, "partial run cannot be compared"),
        ({"questions": [answered(number) for number in range(2)]}, "different questions"),
        ({"questions": [answered(0), answered(1), answered(2, prompt_digest=digest("z"))]}, "different questions or prompts"),
    ],
)
def test_runs_that_cannot_be_paired_are_refused(changes: dict[str, Any], message: str):
    questions = changes.pop("questions", [answered(number) for number in range(3)])
    with pytest.raises(CheckFailedError, match=message):
        compare(evidence([answered(number) for number in range(3)]), evidence(questions, **changes))


@pytest.mark.parametrize(
    ("outcome", "gate"),
    [("empty", "empty or failed"), ("failed", "empty or failed"), ("truncated", "truncated"), ("unparsable", "unparsable")],
)
def test_a_gate_fails_above_its_limit_and_not_at_it(manifests: Path, outcome: str, gate: str):
    protocol = load_protocol(manifests / "protocols" / "tiny-exam.yaml", manifests)
    limit = {"empty or failed": protocol.gates.empty_or_failed, "truncated": protocol.gates.truncated}.get(
        gate, protocol.gates.unparsable
    )
    most = round(limit * 100)
    bad = [answered(number, correct=False, outcome=outcome) for number in range(most)]
    good = [answered(number) for number in range(most, 100)]
    require_gates(protocol, bad + good)
    worse = [*bad, answered(100, correct=False, outcome=outcome), *good[1:]]
    with pytest.raises(
        CheckFailedError, match=rf"{gate}: {most + 1} of 100 replies \({most + 1}\.0%\), the limit is {most}\.0%"
    ):
        require_gates(protocol, worse)


def test_loops_and_a_short_context_are_gates_too(manifests: Path):
    protocol = load_protocol(manifests / "protocols" / "tiny-exam.yaml", manifests)
    looping = [answered(number, looping=True) for number in range(5)]
    assert "looping: 5 of 5 replies (100.0%)" in failed_gates(protocol, looping)[0]
    assert "context: the longest prompt has 1000 tokens" in failed_gates(protocol, [answered(0, prompt_tokens=1000)])[0]


def spoil(tmp_path: Path, place: int, **changes: Any) -> str:
    """What is said of the seed card's evidence when one answer is changed and every total still adds up."""
    value = json.loads(evidence_bytes(evidence(seed_card())))
    value["questions"][place] |= changes
    path = tmp_path / "evidence.json"
    path.write_text(json.dumps(value))
    with pytest.raises(CheckFailedError) as caught:
        read_evidence(path)
    return str(caught.value)


PATCHED = {"letter": "D", "correct": True, "reply_digest": digest("x")}


@pytest.mark.parametrize(
    ("place", "changes", "message"),
    [
        (0, {"raw_letter": "A"}, "questions.0: raw_correct is True for the letter 'A' where 'D' is right"),
        (160, {"raw_letter": "D"}, "questions.160: raw_correct is False for the letter 'D'"),
        (0, {"target": "E", "raw_letter": "E"}, "questions.0: target 'E' is none of ABCD"),
        (160, {"raw_letter": "E"}, "questions.160: raw_letter 'E' is none of ABCD"),
        (160, {"raw_letter": "AB"}, "raw_letter 'AB' is none of ABCD"),
        (190, {"patched": PATCHED | {"letter": "A"}}, "patched.correct is True for the letter 'A' where 'D' is right"),
        (190, {"patched": PATCHED | {"letter": "x", "correct": False}}, "patched.letter 'x' is none of ABCD"),
        (0, {"option_order": [0, 1, 2, 2]}, "option_order [0, 1, 2, 2] is no order of its options"),
        (0, {"option_order": [1, 2, 3, 4]}, "option_order [1, 2, 3, 4] is no order of its options"),
        (0, {"option_order": [1, 0, 2, 3, 4]}, "not all questions have the same number of options"),
        (160, {"raw_letter": None}, "questions.160: outcome valid without a letter"),
        (190, {"raw_letter": "A"}, "questions.190: outcome empty with the letter 'A'"),
        (0, {"cause": "parser"}, "questions.0: outcome valid never has the cause 'parser'"),
        (190, {"cause": None}, "outcome empty never has the cause None"),
        (0, {"finish_reason": "length"}, "outcome valid with finish_reason 'length'"),
        (190, {"patched": None}, "question 'q190' was not patched whose outcome the protocol names"),
        (160, {"patched": PATCHED}, "question 'q160' was patched whose outcome the protocol does not name"),
        (0, {"question_digest": digest("question 1")}, "a question appears twice"),
        (0, {"question_digest": digest("other")}, "questions_digest is"),
        (0, {"id": "q1"}, "two questions have the same id"),
    ],
)
def test_an_answer_that_contradicts_itself_is_refused(tmp_path: Path, place: int, changes: dict[str, Any], message: str):
    assert message in spoil(tmp_path, place, **changes)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("patched_luck", 2.0, "patched_luck is 2.0, its questions give 2.5"),
        ("patch_method", None, "patch_method None does not go with patch_outcomes"),
        ("questions_digest", "0" * 64, "questions_digest is 000"),
        ("raw_error", 0.5, "raw_error is 0.5, its questions give None"),
        ("calibration", {"questions": 0, "questions_digest": digest("q"), "overlap": [digest("question 1")]}, "than it has"),
    ],
)
def test_what_is_said_of_all_answers_is_recomputed(tmp_path: Path, name: str, value: Any, message: str):
    path = tmp_path / "evidence.json"
    path.write_text(json.dumps(json.loads(evidence_bytes(evidence(seed_card()))) | {name: value}))
    with pytest.raises(CheckFailedError, match=message):
        read_evidence(path)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"prompt_tokens": -1}, r"questions\.0\.prompt_tokens"),
        ({"completion_tokens": 2**31}, r"questions\.0\.completion_tokens"),
        ({"option_order": [0]}, r"questions\.0\.option_order"),
        ({"option_order": [0, 1, 2, 99]}, r"questions\.0\.option_order\.3"),
        ({"repeat": -1}, r"questions\.0\.repeat"),
        ({"reply_digest": "x"}, r"questions\.0\.reply_digest"),
    ],
)
def test_numbers_out_of_bounds_are_no_evidence(tmp_path: Path, changes: dict[str, Any], where: str):
    value = json.loads(evidence_bytes(evidence(seed_card())))
    value["questions"][0] |= changes
    (tmp_path / "evidence.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match=f"no evidence: {where}: "):
        read_evidence(tmp_path / "evidence.json")


def test_the_difference_of_two_files_of_evidence_is_explained():
    first = evidence(seed_card())
    assert differing_evidence(first, first) == []
    assert differing_evidence(first, evidence(seed_card(), quant="Q4_K_M")) == ["quant: Q6_K and Q4_K_M"]
    questions = seed_card()
    questions[0] = answered(0, correct=False)
    assert differing_evidence(first, evidence(questions)) == ["question q0: raw_letter D and A; raw_correct True and False"]
    found = differing_evidence(first, evidence([answered(number) for number in range(150, 202)]))
    assert found[0].startswith("questions_digest: ")
    assert found[1] == "question q0: only in the first"
    assert found[-1] == "195 more questions"
    assert len(found) == 5
