"""`moe-release compare`: evidence and lm-eval's own outputs, read, gated, paired and put into words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from pruner.errors import CheckFailedError, InputError
from release.card.table import Entry, rows
from release.cli import app
from release.documents import load_document
from release.evaluation.compare import Contrast, compare, contrast, title
from release.evaluation.evidence import Evidence, read_evidence, totals, write_evidence
from release.evaluation.gates import read_gated_run
from release.evaluation.lm_eval_run import read_lm_eval_files, read_lm_eval_run
from release.evaluation.protocol import Protocol, load_protocol, protocol_digest
from release.evaluation.report import compare_runs
from release.manifest import Compare
from tests.conftest import MANIFESTS

from .runs import cherry_picked, sample, write_lm_eval_run

MakeRun = Callable[..., Path]


@pytest.fixture
def evidence(manifests: Path) -> Evidence:
    return read_evidence(manifests / "tiny" / "evidence" / "tiny-gemma4-16e-Q6_K.json")


@pytest.fixture
def protocol(manifests: Path) -> Path:
    return manifests / "protocols" / "tiny-exam.yaml"


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """The output of an lm-eval run in the format of version 0.4: one sample a line for each question and filter."""

    def make(
        name: str = "run", answers: str = "++++++++++", *, filters: tuple[str, ...] = ("none",), limit: int = 0, **changes: Any
    ) -> Path:
        return write_lm_eval_run(tmp_path / name, answers, filters=filters, limit=limit, **changes)

    return make


def changed(evidence: Evidence, *, wrong: int = 0, **fields: Any) -> Evidence:
    questions = []
    for each in evidence.questions:
        spoil = wrong > 0 and each.raw_correct and each.patched is None
        wrong -= spoil
        letter = "A" if each.target != "A" else "B"
        questions.append(each.model_copy(update={"raw_correct": False, "raw_letter": letter} if spoil else {}))
    return evidence.model_copy(update={"questions": tuple(questions), **totals(tuple(questions)), **fields})


def test_a_run_is_recounted_and_classified(make_run: MakeRun):
    run = read_lm_eval_run(make_run(answers="+++-0?l+", filters=("strict", "loose")), choosing("loose"))
    assert (run.total, run.correct, run.partial) == (8, 4, False)
    assert run.outcomes == {"valid": 6, "empty": 1, "truncated": 0, "unparsable": 1, "failed": 0}
    assert [each.looping for each in run.questions] == [False] * 6 + [True, False]
    assert (run.settings["filter"], run.settings["metric"]) == ("loose", "exact_match")
    assert run.settings["lm_eval_version"] == "0.4.11"
    assert "What is" not in run.model_dump_json()


def choosing(chosen: str) -> Protocol:
    """A protocol that names a filter."""
    found = load_protocol(MANIFESTS / "protocols" / "tiny-exam.yaml", MANIFESTS)
    return found.model_copy(update={"task": found.task.model_copy(update={"filter": chosen})})


def test_a_filter_must_be_chosen_where_there_are_two(make_run: MakeRun):
    with pytest.raises(InputError, match="has filters loose, strict; name a protocol"):
        read_lm_eval_run(make_run(filters=("strict", "loose")))


def test_seven_of_thirty_empty_answers_are_refused(make_run: MakeRun, protocol: Path):
    folder = make_run(answers="+" * 18 + "-" * 5 + "0" * 7)
    assert read_lm_eval_run(folder).outcomes["empty"] == 7
    with pytest.raises(CheckFailedError, match=r"tiny-exam: empty or failed: 7 of 30 replies \(23\.3%\), the limit is 5\.0%"):
        compare_runs([folder, folder], [protocol])
    with pytest.raises(InputError, match="brings no gates of its own"):
        compare_runs([folder, folder])


def test_two_runs_with_the_same_settings_are_paired(make_run: MakeRun, protocol: Path):
    report = compare_runs([make_run("a", "+" * 40), make_run("b", "+" * 30 + "-" * 10)], [protocol])
    assert "b (lm-eval) against a (lm-eval): worse (10 of 40; p = 0.002;" in report.text()


def test_other_settings_are_refused_or_told(make_run: MakeRun, protocol: Path):
    runs = [make_run("a"), make_run("b", lm_eval_version="0.4.13")]
    with pytest.raises(CheckFailedError, match=r"a \(lm-eval\) and b \(lm-eval\) follow different protocols"):
        compare_runs(runs, [protocol])
    text = compare_runs(runs, [protocol], allow_different_protocols=True).text()
    assert "no test, the protocols differ: " in text
    assert "lm_eval: 0.4.11 and 0.4.13" in text
    assert "p =" not in text


def test_a_row_of_a_table_is_scored_gated_and_not_compared(make_run: MakeRun, evidence: Evidence):
    run = read_gated_run(make_run(answers="+" * 30 + "-" * 10), choosing("none"))
    ours, theirs = rows([Entry("base", "b.json", evidence, reference=True), Entry("them", "samples.jsonl", foreign=run)])
    assert ours.difference == "reference"
    assert (theirs.correct, theirs.patched.value, theirs.raw) == ("30 of 40", 0.75, None)
    assert theirs.difference == "not comparable: a run of lm-eval 0.4.11, task exam, not of this protocol"
    with pytest.raises(CheckFailedError, match="no score under the gates"):
        read_gated_run(make_run("bad", answers="0" * 40), choosing("none"))
    limited = read_lm_eval_run(make_run("short", limit=198))
    with pytest.raises(CheckFailedError, match="a limited run of lm-eval"):
        rows([Entry("them", "samples.jsonl", foreign=limited)])


def test_a_foreign_model_name_is_shown_and_not_obeyed(evidence: Evidence):
    odd = evidence.model_copy(update={"model_file": "m\x1b]0;owned\x07" + "x" * 100_000})
    assert title(odd).startswith("m\\x1b]0;owned\\x07xxx")
    assert len(title(odd)) < 2000


def test_a_limited_run_is_partial(make_run: MakeRun):
    run = read_lm_eval_run(make_run(limit=198))
    assert run.partial
    with pytest.raises(CheckFailedError, match="partial run cannot be compared"):
        compare(run, run)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"results": {"exam": {"exact_match,none": 0.9}}}, CheckFailedError, r"is 0\.9, the samples give 1\.0"),
        ({"results": {}}, CheckFailedError, "is None, the samples give"),
        ({"configs": []}, InputError, "'configs' is missing"),
        ({"configs": {"a": {}, "b": {}}}, InputError, "has tasks a, b"),
        ({"n-samples": None}, InputError, "'n-samples' is missing"),
        ({"config": {"random_seed": json.loads("[" * 300 + "]" * 300)}}, InputError, "settings are nested more than 50 deep"),
    ],
)
def test_results_that_do_not_fit_are_refused(make_run: MakeRun, changes: dict[str, Any], kind: type[Exception], message: str):
    with pytest.raises(kind, match=message):
        read_lm_eval_run(make_run(**changes))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"jsonl:2: not JSON"),
        ("[" * 100_000, r"jsonl:2: not JSON"),
        ("[]", r"jsonl:2: no sample of lm-eval"),
        ("{}", r"jsonl:2: no sample of lm-eval: resps: Field required"),
        (json.dumps(sample(0, "+", "none")), "a question appears twice"),
        (json.dumps(sample(1, "+", "none") | {"exact_match": 0.5}), r"exact_match is 0\.5, where 0 or 1"),
        (json.dumps(sample(1, "+", "none") | {"exact_match": [1]}), "where 0 or 1"),
    ],
)
def test_damaged_samples_get_one_line(make_run: MakeRun, line: str, message: str):
    folder = make_run(answers="+")
    (path,) = folder.rglob("samples_*")
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match=message):
        read_lm_eval_run(folder)


def test_a_folder_must_hold_one_run(make_run: MakeRun, tmp_path: Path):
    make_run("a"), make_run("b")
    with pytest.raises(InputError, match=r"2 files results_\*\.json"):
        read_lm_eval_run(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"0 files results_\*\.json"):
        read_lm_eval_run(tmp_path / "none")
    (path,) = make_run("c").rglob("samples_*")
    path.write_text("")
    with pytest.raises(InputError, match="holds no answers"):
        read_lm_eval_run(tmp_path / "c")


UPSTREAM = next((each / "shared" / "data" / "upstream" for each in Path(__file__).parents if (each / "shared").is_dir()), None)


@pytest.mark.skipif(UPSTREAM is None, reason="needs the outputs of lm-eval that stand beside this repository")
def test_the_real_outputs_of_an_lm_eval_run_are_scored_and_refused(protocol: Path):
    assert UPSTREAM is not None
    folder = UPSTREAM / "lm_eval_aime30_gptoss"
    run = read_lm_eval_run(folder)
    assert (run.total, run.correct, run.outcomes["empty"], run.partial) == (30, 18, 7, False)
    assert not any(each.looping for each in run.questions)
    with pytest.raises(CheckFailedError, match=r"empty or failed: 7 of 30 replies \(23\.3%\), the limit is 5\.0%"):
        compare_runs([folder, folder], [protocol])


def test_evidence_and_a_foreign_run_are_told_apart_and_not_tested(evidence: Evidence, make_run: MakeRun):
    run = read_lm_eval_run(make_run())
    found = contrast(evidence, run)
    assert isinstance(found, Contrast)
    assert any(each.startswith("task: gpqa_diamond_cot_zeroshot and exam") for each in found.differing)
    with pytest.raises(CheckFailedError, match="follow different protocols"):
        compare(evidence, run)


def test_the_command_compares_all_with_the_first(tmp_path: Path, evidence: Evidence):
    paths = [str(tmp_path / f"{name}.json") for name in "abc"]
    write_evidence(Path(paths[0]), evidence)
    write_evidence(Path(paths[1]), changed(evidence, wrong=3, quant="Q4_K_M"))
    write_evidence(Path(paths[2]), changed(evidence, wrong=60))
    result = CliRunner().invoke(app, ["compare", *paths])
    assert result.exit_code == 0
    assert "no detectable difference (3 of 240; p = 0.25; 240 questions can show 5.7 pp)" in result.stdout
    assert "also differs: quant: Q6_K and Q4_K_M" in result.stdout
    assert "worse (60 of 240; p = 2e-18;" in result.stdout
    report = json.loads(CliRunner().invoke(app, ["compare", "--json", *paths]).stdout)
    assert [each["patched"]["only_a"] for each in report["comparisons"]] == [3, 60]
    assert [each["tested"] for each in report["comparisons"]] == [True, True]
    assert "questions" not in report["runs"][0]
    assert report["runs"][0]["patched_correct"] == evidence.patched_correct


def test_the_command_refuses_another_protocol_unless_it_may_only_tell(tmp_path: Path, evidence: Evidence):
    paths = [str(tmp_path / f"{name}.json") for name in "ab"]
    write_evidence(Path(paths[0]), evidence)
    write_evidence(Path(paths[1]), evidence.model_copy(update={"protocol_digest": "0" * 64, "task_version": 2.1}))
    refused = CliRunner().invoke(app, ["compare", *paths])
    assert isinstance(refused.exception, CheckFailedError)
    told = CliRunner().invoke(app, ["compare", "--allow-different-protocols", "--json", *paths])
    (found,) = json.loads(told.stdout)["comparisons"]
    assert found["tested"] is False
    assert "task_version: 2.2 and 2.1" in found["differing"]
    assert "raw" not in found


def test_settings_of_two_protocols_are_told_when_their_files_are_found(tmp_path: Path, evidence: Evidence, protocol: Path):
    """One stands beside its evidence, as in a release's reproduce/; the other is named."""
    text = (
        protocol.read_text().replace("../tiny", "tiny").replace("min_p: 0.0", "min_p: 0.05").replace("seed: 42", "seed: 1234")
    )
    other = tmp_path / "other.yaml"
    other.write_text(text)
    digest = protocol_digest(load_document(other, Protocol))
    one, two = tmp_path / "a" / "reproduce" / "evidence" / "Q6_K.json", tmp_path / "b.json"
    one.parent.mkdir(parents=True)
    write_evidence(one, evidence)
    write_evidence(two, evidence.model_copy(update={"protocol_digest": digest}))
    shutil.move(other, tmp_path / "a" / "other.txt")
    unknown = compare_runs([one, two], allow_different_protocols=True).to_json()["comparisons"][0]["differing"]
    assert [each for each in unknown if each.startswith("settings of")] == [
        f"settings of tiny-exam ({name[:12]}): not known; name its file with --protocol"
        for name in (evidence.protocol_digest, digest)
    ]
    shutil.copy(protocol, one.parents[1] / "protocol.yaml")
    given = tmp_path / "a" / "other.txt"
    found = compare_runs([one, two], [given], allow_different_protocols=True).to_json()["comparisons"][0]
    assert found["differing"] == [
        f"protocol: tiny-exam {evidence.protocol_digest[:12]} and tiny-exam {digest[:12]}",
        "sampling.seed: 42 and 1234",
        "sampling.min_p: 0.0 and 0.05",
    ]
    assert "sampling.min_p: 0.0 and 0.05" in found["words"]


def test_a_protocol_is_used_or_refused(tmp_path: Path, evidence: Evidence, protocol: Path, manifests: Path):
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    write_evidence(paths[0], evidence)
    write_evidence(paths[1], cherry_picked(evidence))
    other = manifests / "protocols" / "gpqa-diamond-v1.yaml"
    with pytest.raises(InputError, match=r"--protocol .*gpqa-diamond-v1\.yaml: none of these runs followed it"):
        compare_runs([paths[0], paths[0]], [other])
    words = ["compare", str(paths[1]), str(paths[1])]
    assert "211 of 211 = 100.00%" in CliRunner().invoke(app, words).stdout
    refused = CliRunner().invoke(app, [*words, "--protocol", str(protocol)])
    assert isinstance(refused.exception, CheckFailedError)
    assert "questions is 211, the protocol has 240" in str(refused.exception)


def test_one_run_is_nothing_to_compare(tmp_path: Path):
    with pytest.raises(InputError, match="two evidence files or more"):
        compare_runs([tmp_path])


def test_two_runs_of_one_quant_that_are_not_equal_are_explained(tmp_path: Path, evidence: Evidence):
    one, other = tmp_path / "a.json", tmp_path / "b.json"
    write_evidence(one, evidence)
    write_evidence(other, changed(evidence, wrong=1))
    report = compare_runs([one, other])
    (what,) = report.to_json()["comparisons"][0]["not_repeated"]
    assert what == f"question {evidence.questions[0].id}: raw_letter B and A; raw_correct True and False"
    assert f"  the same quant under the same protocol, and yet: {what}" in report.text()
    write_evidence(other, changed(evidence, wrong=1, model_sha256="0" * 64))
    assert compare_runs([one, other]).to_json()["comparisons"][0]["not_repeated"] == []


def test_the_files_of_a_row_are_pinned_each_by_itself(make_run: MakeRun):
    folder = make_run(answers="+" * 4)
    (samples,), (results,) = folder.rglob("samples_*"), folder.rglob("results_*")
    pins = {"samples": {"path": samples.name, "sha256": "0" * 64}, "results": {"path": results.name}}
    row = Compare.model_validate({"label": "them", "lm_eval": pins})
    assert [file.path for file in row.files] == [samples.name, results.name]
    assert read_lm_eval_files(samples, results).total == 4
    for missing in pins:
        with pytest.raises(ValidationError, match=missing):
            Compare.model_validate({"label": "them", "lm_eval": {key: pin for key, pin in pins.items() if key != missing}})


@pytest.mark.parametrize(("correct", "total"), [(199, 198), (-1, 198), (0, 0), (1, 10**10)])
def test_an_impossible_reported_score_is_refused(correct: int, total: int):
    value = {"correct": correct, "total": total, "url": "https://example.org/card", "date": "2026-05-01"}
    with pytest.raises(ValidationError):
        Compare.model_validate({"label": "them", "reported": value})
