"""Whole evaluations of the tiny model with the real llama-server and lm-eval."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pruner.errors import CheckFailedError, InputError, UnavailableError
from pruner.folds import fold_of
from release.evaluation.compare import compare
from release.evaluation.cross_fit import cross_fit
from release.evaluation.data import load_rows, questions_of
from release.evaluation.evidence import evidence_bytes, read_evidence
from release.evaluation.timing import read_timing
from release.evaluation.tokenizer import tokenizer_digest

from .conftest import QUESTIONS, Bench, MakeProtocol, Steps
from .runs import ledger_lines, running_servers, said

pytestmark = pytest.mark.llama


def test_two_runs_give_the_same_replies_and_the_same_evidence(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path):
    protocol = make_protocol()
    first = bench.run(protocol, tmp_path / "first")
    second = bench.run(protocol, tmp_path / "second")
    assert said(tmp_path / "first") == said(tmp_path / "second")
    assert (tmp_path / "first" / "evidence.json").read_bytes() == (tmp_path / "second" / "evidence.json").read_bytes()
    assert read_evidence(tmp_path / "first" / "evidence.json") == first == second
    assert "no detectable difference (0 of 24; p = 1;" in compare(first, second).words
    assert not running_servers()
    assert (tmp_path / "first" / "server.log").stat().st_size > 0


def test_scores_recomputed_from_the_ledger_equal_the_evidence(
    bench: Bench, make_protocol: MakeProtocol, tmp_path: Path, exam_root: Path
):
    """An independent scorer: the last "(X)" of the content, the option text under that letter in the prompt itself."""
    protocol = make_protocol(max_tokens=40)
    evidence = bench.run(protocol, tmp_path)
    rows = [json.loads(line) for line in (exam_root / str(protocol.data.path)).read_text().splitlines()]
    raw = {line["question"]: line for line in ledger_lines(tmp_path, "raw")}
    patches = {line["question"]: line for line in ledger_lines(tmp_path, "patch")}
    right = final = 0
    for row, question in zip(rows, evidence.questions, strict=True):
        columns = ["Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3", "Correct Answer"]
        texts = [row[columns[column]] for column in question.option_order]
        letters = re.findall(r"\(([A-Z])\)", str(raw[question.question_digest]["content"] or ""))
        correct = bool(letters) and texts["ABCD".index(letters[-1])] == row["Correct Answer"]
        assert correct == question.raw_correct
        right += correct
        if question.question_digest in patches:
            letter = str(patches[question.question_digest]["content"])[:1]
            correct = letter in "ABCD" and texts["ABCD".index(letter)] == row["Correct Answer"]
        final += correct
    assert (right, final) == (evidence.raw_correct, evidence.patched_correct)
    assert set(patches) == {
        each.question_digest for each in evidence.questions if each.outcome in {"empty", "truncated", "failed"}
    }
    assert 0 < len(patches) < QUESTIONS


def test_the_model_answers_through_its_thinking_channel(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path):
    evidence = bench.run(make_protocol(questions=8), tmp_path)
    assert evidence.outcomes["valid"] >= 5
    assert evidence.raw_correct >= 4
    valid = [line for line in ledger_lines(tmp_path, "raw") if line["finish_reason"] == "stop"]
    assert all(str(line["content"]).startswith("The answer is (") for line in valid)
    assert all(str(line["reasoning_content"]).startswith("The ") for line in valid)


def test_a_thought_beyond_its_budget_is_closed_and_told(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path):
    """The stop string ends each answer before it begins; only the budget tells why."""
    stop = ["The answer"]
    bound = bench.run(make_protocol(questions=3, stop=stop, server__reasoning_budget=4), tmp_path / "bound")
    assert [(each.outcome, each.cause) for each in bound.questions] == [("empty", "budget")] * 3
    assert bound.patched == 3
    thoughts = [str(line["reasoning_content"]) for line in ledger_lines(tmp_path / "bound", "raw")]
    free = bench.run(make_protocol(questions=3, stop=stop), tmp_path / "free")
    assert [(each.outcome, each.cause) for each in free.questions] == [("empty", "no answer")] * 3
    for line, thought in zip(ledger_lines(tmp_path / "free", "raw"), thoughts, strict=True):
        assert str(line["reasoning_content"]).startswith(thought)
        assert len(str(line["reasoning_content"])) > len(thought) > 0


def test_the_overlap_with_the_calibration_questions_is_counted(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path):
    protocol = make_protocol(questions=3)
    plain = bench.run(protocol, tmp_path)
    seen = [plain.questions[2].question_digest, "0" * 64, plain.questions[0].question_digest]
    found = bench.run(protocol, tmp_path, calibration=seen)
    assert found.calibration is not None
    assert found.calibration.questions == 3
    assert found.calibration.overlap == (plain.questions[0].question_digest, plain.questions[2].question_digest)
    assert evidence_bytes(found.model_copy(update={"calibration": None})) == evidence_bytes(plain)
    unseen = bench.run(protocol, tmp_path, calibration=["0" * 64]).calibration
    assert unseen is not None
    assert unseen.overlap == ()


def test_a_finished_run_is_not_asked_again(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path):
    protocol = make_protocol(questions=6)
    bench.run(protocol, tmp_path)
    ledger, evidence = ((tmp_path / name).read_bytes() for name in ("ledger.jsonl", "evidence.json"))
    bench.run(protocol, tmp_path)
    assert (tmp_path / "ledger.jsonl").read_bytes() == ledger
    assert (tmp_path / "evidence.json").read_bytes() == evidence


def test_a_limited_run_is_partial_and_its_replies_serve_the_whole_run(
    bench: Bench, make_protocol: MakeProtocol, tmp_path: Path
):
    protocol = make_protocol(questions=6)
    partial = bench.run(protocol, tmp_path / "limited", limit=2)
    assert (partial.partial, partial.total) == (True, 2)
    assert not (tmp_path / "limited" / "evidence.json").exists()
    whole = bench.run(protocol, tmp_path / "limited")
    assert (whole.partial, whole.total) == (False, 6)
    assert len(ledger_lines(tmp_path / "limited", "raw")) == 6
    assert evidence_bytes(whole) == evidence_bytes(bench.run(protocol, tmp_path / "whole"))
    with pytest.raises(InputError, match="at least one question"):
        bench.run(protocol, tmp_path / "limited", limit=0)


def test_folds_joined_are_the_whole_run(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path):
    """Each asks its own questions alone; the gates, which a fold by itself may fail, hold for all of them."""
    protocol = make_protocol(questions=6)
    whole = bench.run(protocol, tmp_path / "whole")
    digests = [each.question_digest for each in whole.questions]
    own = [[each for each in digests if fold_of(each, 2) == fold] for fold in range(2)]
    parts = {}
    for fold, seen in ((0, own[1]), (1, own[0])):
        folder = tmp_path / str(fold)
        part = bench.run(protocol, folder, fold=(fold, 2), calibration=["0" * 64, *seen])
        assert [line["question"] for line in ledger_lines(folder, "raw")] == own[fold] != []
        assert not (folder / "evidence.json").exists()
        assert not (folder / "timing.json").exists()
        parts[str(fold)] = read_evidence(folder / f"evidence.fold-{fold}-of-2.json")
        assert part == parts[str(fold)]
        assert part.partial
        assert part.calibration
        assert part.calibration.overlap == tuple(seen)
    found = cross_fit(parts, protocol)
    assert (found.total, found.seen) == (6, 6)
    assert (found.raw_correct, found.patched_correct) == (whole.raw_correct, whole.patched_correct)
    strict = make_protocol(questions=6, gates__truncated=0.0, max_tokens=3, server__reasoning_budget=0)
    parts = {
        str(fold): bench.run(strict, tmp_path / f"strict-{fold}", fold=(fold, 2), calibration=own[1 - fold])
        for fold in range(2)
    }
    with pytest.raises(CheckFailedError, match=r"no evidence under protocol tiny-exam: truncated: \d of 6 replies"):
        cross_fit(parts, strict)


def test_the_replies_of_a_fold_serve_the_whole_run(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path):
    protocol = make_protocol(questions=6)
    part = bench.run(protocol, tmp_path, fold=(1, 2), calibration=["0" * 64])
    whole = bench.run(protocol, tmp_path)
    assert len(ledger_lines(tmp_path, "raw")) == whole.total == 6
    assert part.questions == tuple(each for each in whole.questions if fold_of(each.question_digest, 2) == 1)
    assert bench.run(protocol, tmp_path, fold=(1, 2), calibration=["0" * 64]) == part
    assert len(ledger_lines(tmp_path, "raw")) == 6, "nothing is asked again"


def test_a_variant_is_not_asked_what_it_saw(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path):
    protocol = make_protocol(questions=6)
    digests = [each.digest for each in questions_of(protocol.data, load_rows(protocol.data, bench.root))]
    seen = next(each for each in digests if fold_of(each, 2) == 1)
    own = sum(fold_of(each, 2) == 1 for each in digests)
    for calibration, index, error, message in (
        ([seen], 1, CheckFailedError, f"--fold 1/2: the drop map was made with 1 of the {own} questions of this fold"),
        (None, 1, InputError, "nobody says which questions the drop map was made from; name them in prune.calibration"),
        (
            [],
            next(each for each in range(90) if all(fold_of(one, 90) != each for one in digests)),
            InputError,
            "no question of",
        ),
    ):
        with pytest.raises(error, match=message):
            bench.run(protocol, tmp_path, fold=(index, 2 if calibration != [] else 90), calibration=calibration)
    assert not (tmp_path / "ledger.jsonl").exists()


def test_a_server_killed_in_the_middle_is_started_again(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path):
    protocol = make_protocol(questions=8)

    def kill_at_three(done: int) -> None:
        if done == 3:
            (server,) = running_servers()
            server.kill()

    disturbed = bench.run(protocol, tmp_path / "disturbed", Steps(kill_at_three))
    assert evidence_bytes(disturbed) == evidence_bytes(bench.run(protocol, tmp_path / "quiet"))
    assert json.loads((tmp_path / "disturbed" / "run.json").read_text())["server_restarts"] == 1
    assert json.loads((tmp_path / "quiet" / "run.json").read_text())["server_restarts"] == 0
    assert not running_servers()


ANSWERED = 6
RUN = f"""
import signal
import sys
from pathlib import Path
import psutil
from release.evaluation.pool import ServerPool
from tests.release.evaluation.conftest import Steps
def hang(done):
    if done == {ANSWERED}:
        for server in psutil.Process().children():
            server.suspend()
        print("hanging", flush=True)
def abort(pool, futures, original=ServerPool._abort):
    original(pool, futures)
    print("leaving", flush=True)
ServerPool._abort = abort
from release.evaluation.protocol import load_protocol
from release.evaluation.runner import evaluate
root, protocol, binary, commit, model, digest, folder, servers, orderly = sys.argv[1:]
if orderly == "True":  # then the servers must end without the kernel's help
    import release.llama_server
    release.llama_server.end_with_parent = lambda: None
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts its background jobs with SIGINT ignored
signal.signal(signal.SIGTERM, signal.SIG_DFL)  # coverage would end the process itself
evaluate(load_protocol(Path(protocol), Path(root)), root=Path(root), server_binary=Path(binary), toolchain_commit=commit,
         model=Path(model), model_sha256=digest, quant="Q6_K", folder=Path(folder), servers=int(servers), progress=Steps(hang))
"""
"""A run whose servers fall silent after some questions, so that it is ended while others are asked."""


@pytest.mark.parametrize(
    ("how", "count"),
    [(signal.SIGKILL, 1), (signal.SIGKILL, 3), (signal.SIGTERM, 1), (signal.SIGTERM, 3), (signal.SIGINT, 1)],
    ids=["kill", "kill three", "terminate", "terminate three", "interrupt"],
)
def test_ended_in_the_middle_the_next_run_ends_with_the_same_evidence(
    bench: Bench, make_protocol: MakeProtocol, tmp_path: Path, exam_root: Path, how: signal.Signals, count: int
):
    protocol = make_protocol()
    file = exam_root / "protocols" / f"{tmp_path.name}.yaml"
    words = [
        bench.root,
        file,
        bench.server_binary,
        bench.toolchain_commit,
        bench.model,
        bench.model_sha256,
        tmp_path / "run",
        count,
        how != signal.SIGKILL,
    ]
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "hanging\n", run.communicate()
    started = [child for child in psutil.Process(run.pid).children() if child.name() == "llama-server"]
    assert len(started) == count
    run.send_signal(how)
    assert run.stdout.readline() == ("" if how == signal.SIGKILL else "leaving\n")
    for server in started if how != signal.SIGKILL else ():
        server.resume()
    run.communicate()
    ends = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 128 + signal.SIGTERM, signal.SIGINT: -signal.SIGINT}
    assert run.returncode == ends[how], "SIGTERM is an orderly end"
    assert not psutil.wait_procs(started, 120)[1]
    assert not (tmp_path / "run" / "evidence.json").exists()
    before = {line["question"]: round(line["seconds"], 3) for line in ledger_lines(tmp_path / "run", "raw")}
    assert ANSWERED <= len(before) < ANSWERED + count
    resumed = bench.run(protocol, tmp_path / "run")
    assert len(ledger_lines(tmp_path / "run", "raw")) == QUESTIONS
    timed = {each.question_digest: each.raw for each in read_timing(tmp_path / "run" / "timing.json").questions}
    assert len(timed) == QUESTIONS
    assert before.items() <= timed.items(), "seconds of the questions that were asked before"
    assert evidence_bytes(resumed) == evidence_bytes(bench.run(protocol, tmp_path / "quiet"))


def test_another_models_ledger_is_refused(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path):
    protocol = make_protocol(questions=2)
    bench.run(protocol, tmp_path)
    with pytest.raises(CheckFailedError, match="belongs to model"):
        bench.run(protocol, tmp_path, model_sha256="0" * 64)
    with pytest.raises(CheckFailedError, match="belongs to protocol"):
        bench.run(make_protocol(questions=2, max_tokens=63), tmp_path)


def test_two_runs_in_one_folder_are_refused(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path):
    protocol = make_protocol(questions=2)

    def second_run(done: int) -> None:
        if done == 1:
            with pytest.raises(UnavailableError, match="another run works here"):
                bench.run(protocol, tmp_path)

    bench.run(protocol, tmp_path, Steps(second_run))


def test_a_failed_gate_leaves_no_evidence(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path):
    protocol = make_protocol(questions=4, max_tokens=3, gates__truncated=0.5)
    with pytest.raises(CheckFailedError, match=r"truncated: 4 of 4 replies \(100\.0%\), the limit is 50\.0%"):
        bench.run(protocol, tmp_path)
    assert not (tmp_path / "evidence.json").exists()
    assert len(ledger_lines(tmp_path, "raw")) == 4


def test_no_path_of_the_machine_stands_in_what_is_published(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path):
    bench.run(make_protocol(questions=2), tmp_path)
    for name in ("evidence.json", "ledger.jsonl", "run.json"):
        content = (tmp_path / name).read_text()
        assert str(tmp_path.parent) not in content
        assert str(bench.model.parent) not in content
    assert "Which" not in (tmp_path / "evidence.json").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lm_eval": "0.4.11"}, r"lm-eval 0\.4\.13 is installed, protocol tiny-exam wants 0\.4\.11"),
        ({"task__version": 2.1}, r"has version 2\.2, the protocol wants 2\.1"),
        ({"task__filter": "none"}, r"has filters strict-match, flexible-extract and metrics exact_match"),
        ({"task__name": "no_such_task"}, "has no task 'no_such_task'"),
        ({"data__correct_column": "Incorrect Answer 1"}, "lm-eval puts the right option at"),
    ],
)
def test_another_lm_eval_or_task_is_refused_before_the_server_starts(
    bench: Bench, make_protocol: MakeProtocol, tmp_path: Path, changes: dict[str, object], message: str
):
    with pytest.raises(CheckFailedError, match=message):
        bench.run(make_protocol(questions=4, **changes), tmp_path)
    assert not (tmp_path / "server.log").exists()


def test_continue_v1_keeps_the_thought_and_the_letters_probabilities(
    bench: Bench, make_protocol: MakeProtocol, tmp_path: Path, continued: list[str]
):
    changes = {
        "method": "continue-v1",
        "open_thought": "<|channel>thought\n",
        "close_thought": "<channel|>",
        "grammar": "root ::= [A-D]",
        "max_tokens": 1,
    }
    protocol = make_protocol(
        questions=4,
        max_tokens=14,
        patch__letter_probabilities=4,
        **{f"patch__{name}": value for name, value in changes.items()},
    )
    evidence = bench.run(protocol, tmp_path)
    assert evidence.patched > 0
    assert all(each.patched is None or each.patched.letter in "ABCD" for each in evidence.questions)
    body = json.loads(str(ledger_lines(tmp_path, "patch")[0]["text"]))
    assert len(body["completion_probabilities"][0]["top_logprobs"]) == 4
    assert all("<|channel>thought\nThe " in prompt and "<bos>" not in prompt for prompt in continued)
    assert len(continued) == evidence.patched


def test_a_limited_run_is_a_smoke_test_whatever_its_gates(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path):
    protocol = make_protocol(questions=6, max_tokens=3, gates__truncated=0.5)
    partial = bench.run(protocol, tmp_path, limit=2)
    assert (partial.partial, partial.outcomes["truncated"]) == (True, 2)
    assert read_evidence(tmp_path / "evidence.partial.json") == partial
    with pytest.raises(CheckFailedError, match="truncated: 6 of 6 replies"):
        bench.run(protocol, tmp_path, limit=6)  # all of them: no smoke test
    assert not (tmp_path / "evidence.json").exists()


def test_another_tokenizer_is_refused_before_the_server_starts(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path):
    found = tokenizer_digest(bench.model)
    assert found == tokenizer_digest(bench.model.with_name("tiny-BF16.gguf")), "quantizing leaves the tokenizer alone"
    assert bench.run(make_protocol(questions=1, chat__tokenizer_sha256=found), tmp_path / "same").total == 1
    with pytest.raises(CheckFailedError, match=rf"tokenizer's sha256 is {found}, protocol tiny-exam wants {'0' * 64}"):
        bench.run(make_protocol(questions=1, chat__tokenizer_sha256="0" * 64), tmp_path / "other")
    assert not (tmp_path / "other" / "server.log").exists()


def test_evidence_that_somebody_changed_is_explained_and_written_anew(
    bench: Bench, make_protocol: MakeProtocol, tmp_path: Path
):
    protocol = make_protocol(questions=3)
    evidence = bench.run(protocol, tmp_path)
    path, good = tmp_path / "evidence.json", (tmp_path / "evidence.json").read_bytes()
    path.write_bytes(good.replace(b'"quant": "Q6_K"', b'"quant": "Q8_0"'))
    notes: list[str] = []
    progress = Steps(lambda _done: None)
    progress.note = notes.append  # type: ignore[method-assign]
    bench.run(protocol, tmp_path, progress)
    path.write_bytes(good.replace(b'"total": 3', b'"total": 4'))
    assert bench.run(protocol, tmp_path, progress) == evidence
    assert path.read_bytes() == good
    assert [note.partition("(there and here): ")[2] for note in notes] == [
        "quant: Q8_0 and Q6_K",
        "this evidence does not add up: total is 4, its questions give 3",
    ]


def test_the_seconds_and_tokens_of_each_question_are_kept(bench: Bench, make_protocol: MakeProtocol, tmp_path: Path):
    """Tokens stand in the evidence; seconds, which no two runs share, beside it."""
    evidence = bench.run(make_protocol(questions=3), tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    seconds = {each["question"]: each["seconds"] for each in record["questions"] if each["kind"] == "raw"}
    assert list(seconds) == [each.question_digest for each in evidence.questions]
    assert all(each > 0 for each in seconds.values())
    tokens = {line["question"]: (line["prompt_tokens"], line["completion_tokens"]) for line in ledger_lines(tmp_path, "raw")}
    assert tokens == {each.question_digest: (each.prompt_tokens, each.completion_tokens) for each in evidence.questions}
    assert record["tokenizer_sha256"] == tokenizer_digest(bench.model)
