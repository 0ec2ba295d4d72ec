"""Questions asked several times: seeds of their own, nothing lost, means with clustered errors, paired comparisons."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pruner.errors import CheckFailedError, InputError
from release.card.facts import run_facts
from release.card.render import environment
from release.card.report import questions_table
from release.evaluation.compare import compare
from release.evaluation.evidence import Evidence, evidence_bytes, read_evidence
from release.evaluation.protocol import Protocol, load_protocol, protocol_digest
from release.evaluation.report import score_in_words
from release.evaluation.stats import clustered_interval, clustered_mean

from .conftest import Bench, Faults, MakeProtocol, Steps
from .runs import ledger_lines, said
from .test_evaluation_evidence import answered, evidence

QUESTIONS, REPEATS = 6, 3


REPEATED = ("kind", "question", "repeat", "seed", "content", "reasoning_content", "completion_tokens")
"""What repeats have in common from run to run."""


@pytest.fixture
def repeated(make_protocol: MakeProtocol) -> Protocol:
    return make_protocol(questions=QUESTIONS, repeats=REPEATS, sampling__temperature=1.0, max_tokens=40)


def two_runs(scores_a: list[int], scores_b: list[int]) -> tuple[Evidence, Evidence]:
    """Runs of four repeats in which a question has so many right answers."""

    def run(scores: list[int], **changes: Any) -> Evidence:
        questions = [
            answered(number, correct=repeat < score, repeat=repeat)
            for number, score in enumerate(scores)
            for repeat in range(4)
        ]
        return evidence(questions, repeats=4, **changes)

    return run(scores_a), run(scores_b)


@pytest.mark.llama
def test_each_repeat_has_its_own_seed_and_every_run_the_same_replies(bench: Bench, repeated: Protocol, tmp_path: Path):
    found = bench.run(repeated, tmp_path / "one")
    bench.run(repeated, tmp_path / "three", servers=3)
    assert said(tmp_path / "one", REPEATED) == said(tmp_path / "three", REPEATED)
    assert (tmp_path / "one" / "evidence.json").read_bytes() == (tmp_path / "three" / "evidence.json").read_bytes()
    assert read_evidence(tmp_path / "one" / "evidence.json") == found
    raw = [line for line in ledger_lines(tmp_path / "one") if line["kind"] == "raw"]
    assert len({line["seed"] for line in raw}) == QUESTIONS * REPEATS == len(raw)
    assert all(
        line["seed"] == repeated.request_seed(line["question"], line["repeat"]) for line in ledger_lines(tmp_path / "one")
    )
    texts = {line["question"]: set() for line in raw}
    for line in raw:
        texts[line["question"]].add(str(line["content"]) + str(line["reasoning_content"]))
    assert any(len(each) > 1 for each in texts.values()), "the seed of a request changes what the model writes"
    record = json.loads((tmp_path / "one" / "run.json").read_text())
    assert len({(each["kind"], each["question"], each["repeat"]) for each in record["questions"]}) == len(
        ledger_lines(tmp_path / "one")
    )
    assert re.fullmatch("[0-9a-f]{64}", record["tokenizer_sha256"])


@pytest.mark.llama
def test_scores_and_errors_recomputed_from_the_ledger_equal_the_evidence(bench: Bench, repeated: Protocol, tmp_path: Path):
    found = bench.run(repeated, tmp_path)
    assert (found.total, found.asked, found.repeats) == (QUESTIONS * REPEATS, QUESTIONS, REPEATS)
    right: dict[str, list[int]] = {}
    targets = {each.question_digest: each.target for each in found.questions}
    for line in ledger_lines(tmp_path):
        if line["kind"] == "raw":
            letters = re.findall(r"\(([A-Z])\)", str(line["content"] or ""))
            correct = bool(letters) and letters[-1] == targets[line["question"]]
            right.setdefault(line["question"], []).append(int(correct))
    assert found.raw_correct == sum(map(sum, right.values()))
    mean = found.raw_correct / found.total
    error = sum((sum(each) - len(each) * mean) ** 2 for each in right.values()) ** 0.5 / found.total
    assert found.raw_error == pytest.approx(error, abs=1e-6)
    assert [each.repeat for each in found.questions] == list(range(REPEATS)) * QUESTIONS


@pytest.mark.llama
def test_interrupted_between_repeats_the_next_run_ends_with_the_same_evidence(bench: Bench, repeated: Protocol, tmp_path: Path):
    def interrupt(done: int) -> None:
        if done == QUESTIONS + 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.run(repeated, tmp_path / "run", Steps(interrupt))
    before = ledger_lines(tmp_path / "run")
    assert len(before) == QUESTIONS + 2
    resumed = bench.run(repeated, tmp_path / "run")
    assert ledger_lines(tmp_path / "run")[: len(before)] == before
    assert evidence_bytes(resumed) == evidence_bytes(bench.run(repeated, tmp_path / "quiet"))


@pytest.mark.llama
def test_a_repeat_that_fails_is_patched_by_itself_and_healed(
    bench: Bench, faults: Faults, make_protocol: MakeProtocol, tmp_path: Path
):
    """The proxy counts a question's attempts over its repeats: the first of the second question fails."""
    protocol = make_protocol(questions=3, repeats=2, sampling__temperature=0.5, limits__retries=0)
    faults.set(q1=["parser", "ok"])
    sick = bench.run(protocol, tmp_path / "run", server_binary=faults.binary)
    assert [each.outcome == "failed" for each in sick.questions] == [False, False, True, False, False, False]
    assert sick.questions[2].patched is not None
    healed = bench.run(protocol, tmp_path / "run")
    assert evidence_bytes(healed) == evidence_bytes(bench.run(protocol, tmp_path / "quiet"))


@pytest.mark.llama
def test_gates_count_every_repeat_and_a_limited_run_is_partial(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path):
    changes = {"repeats": 2, "sampling__temperature": 0.5, "max_tokens": 3, "gates__truncated": 0.5}
    protocol = make_protocol(questions=4, **changes)
    limited = bench.run(protocol, tmp_path, limit=2)
    assert (limited.partial, limited.total, limited.asked) == (True, 4, 2)
    with pytest.raises(CheckFailedError, match=r"truncated: 8 of 8 replies \(100\.0%\), the limit is 50\.0%"):
        bench.run(protocol, tmp_path)


def test_seeds_depend_on_seed_question_and_repeat_alone(manifests: Path):
    tiny = load_protocol(manifests / "protocols" / "tiny-exam.yaml", manifests)
    assert tiny.request_seed("a" * 64, 0) == 42
    many = tiny.model_copy(update={"repeats": 2})
    other = many.model_copy(update={"sampling": many.sampling.model_copy(update={"seed": 43})})
    found = [
        each.request_seed(digest, repeat) for each in (many, other) for digest in ("a" * 64, "b" * 64) for repeat in (0, 1)
    ]
    assert len(set(found)) == 8
    assert all(0 <= seed < 2**32 - 1 for seed in found)
    assert many.request_seed("a" * 64, 1) == 167223282, "a seed that moves makes every old run another run"


def test_repeats_are_part_of_the_digest_and_need_a_temperature(make_protocol: MakeProtocol):
    once, twice = make_protocol(sampling__temperature=1.0), make_protocol(sampling__temperature=1.0, repeats=2)
    assert protocol_digest(once) != protocol_digest(twice)
    assert protocol_digest(once) == protocol_digest(make_protocol(sampling__temperature=1.0, repeats=1))
    with pytest.raises(InputError, match="repeats at temperature 0 are all the same reply"):
        make_protocol(repeats=2)
    for wrong in (0, 101, 1.5, "x"):
        with pytest.raises(InputError, match="repeats"):
            make_protocol(sampling__temperature=1.0, repeats=wrong)


def test_evidence_of_repeats_survives_a_file_and_has_clustered_numbers(tmp_path: Path):
    first, _ = two_runs([4, 4, 3, 0, 1, 4, 2, 4], [0] * 8)
    path = tmp_path / "evidence.json"
    path.write_bytes(evidence_bytes(first))
    assert read_evidence(path) == first
    scores = [[repeat < score for repeat in range(4)] for score in (4, 4, 3, 0, 1, 4, 2, 4)]
    mean, error = clustered_mean(scores)
    low, high = clustered_interval(scores)
    assert first.patched_correct / first.total == mean == 22 / 32
    assert first.patched_error == pytest.approx(error, abs=1e-6)
    assert (first.patched_interval.low, first.patched_interval.high) == pytest.approx((low, high), abs=1e-6)
    words = score_in_words(first)
    assert words.startswith("22 of 32 = 68.75% (95 % interval 41.5–87.2 %")
    assert f"standard error {100 * error:.2f} pp" in words
    assert "8 questions asked 4 times" in words


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value["questions"].pop(1), "appears twice, or not in each repeat"),
        (lambda value: value["questions"][1].update(repeat=0), "appears twice, or not in each repeat"),
        (lambda value: value["questions"][1].update(target="A", raw_letter="A"), "put differently from repeat to repeat"),
        (lambda value: value.update(raw_error=0.01), r"raw_error is 0\.01"),
        (lambda value: value.update(raw_error=None), r"raw_error is None"),
        (lambda value: value.update(repeats=2), "appears twice, or not in each repeat"),
    ],
)
def test_repeats_that_do_not_add_up_are_refused(tmp_path: Path, change: Any, message: str):
    value = json.loads(evidence_bytes(two_runs([4, 3], [0, 0])[0]))
    change(value)
    (tmp_path / "evidence.json").write_text(json.dumps(value))
    with pytest.raises(CheckFailedError, match=message):
        read_evidence(tmp_path / "evidence.json")


def test_runs_with_repeats_are_paired_by_question():
    better, worse = two_runs([4] * 20, [4] * 12 + [1] * 8)
    found = compare(better, worse)
    assert (found.patched.only_a, found.patched.only_b, found.patched.repeats, found.patched.total) == (8, 0, 4, 80)
    assert found.patched.p == pytest.approx(2 / 2**8)
    assert found.words.startswith(
        "worse (24 of 80 = 30.0 pp, standard error 8.2 pp; p = 0.0078; 20 questions asked 4 times can"
    )
    assert found.words.endswith("show 23.0 pp)")
    same = compare(better, better)
    assert same.words == (
        "no detectable difference (0 of 80 = 0.0 pp, standard error 0.0 pp; p = 1; 20 questions asked 4 times can show none)"
    )


def test_a_card_says_that_answers_are_repeats():
    run = run_facts(two_runs([4, 3, 0], [0] * 3)[0], 4)
    assert (run["chance"], str(run["asked"]), str(run["repeats"])) == (None, "3", "4")
    once = run_facts(evidence([answered(0)]), 4)
    table = questions_table({"Q6_K": two_runs([4, 3, 0], [0] * 3)[0]})
    assert [row[0].text for row in table.rows][:5] == [
        "q0 (1 of 4)",
        "q0 (2 of 4)",
        "q0 (3 of 4)",
        "q0 (4 of 4)",
        "q1 (1 of 4)",
    ]
    assert (once["repeats"], once["asked"], once["error"]) == (None, None, None)
    environment_ = environment()
    source, _, _ = environment_.loader.get_source(environment_, "weights_card.md.j2")  # type: ignore[union-attr]
    part = source[source.index("| Raw outcome |") : source.index("Raw: {{")] + "Raw:"
    text = environment_.from_string(part).render(run=run)
    assert "| Raw outcome | Answers |" in text
    words = "3 questions, each asked 4 times with seeds of its own. The score is the mean over all answers"
    assert f"{words}; its standard error, {run['error']}," in text
    assert environment_.from_string(part).render(run=once).endswith("| together | 1 |\n\nRaw:")
