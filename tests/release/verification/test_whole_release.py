"""The tiny release as a stranger has it: quants, scores and cards, all from the Hub."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from release.evaluation.evidence import Evidence, evidence_bytes, read_evidence, totals
from release.gguf.toolchain import Toolchain
from release.verdict import Finding, Verdict
from release.verification.exam import judged
from release.verification.request import Request
from release.verification.run import verify_published
from tests.conftest import MANIFESTS
from tests.release.evaluation.runs import cherry_picked
from tests.release.verification.releases import Stage, part

pytestmark = [pytest.mark.llama, pytest.mark.slow]

EVIDENCE = "reproduce/evidence/Q6_K.json"
TIMING = "reproduce/timing/Q6_K.json"
GGUFS = "moe-release/tiny-gemma4-4e-GGUF"
QUESTIONS = MANIFESTS / "tiny" / "exam" / "held_out.jsonl"


def test_without_rebuilding_the_quants_everything_else_is_good(tiny: Stage) -> None:
    found = tiny.verify()
    verdicts = {finding.part: finding.verdict for finding in found.findings}
    assert verdicts.pop("ggufs") is Verdict.UNKNOWN
    assert verdicts == dict.fromkeys(("consistency", "files", "weights", "evidence", "card"), Verdict.GOOD)
    assert "not rebuilt: use --requantize" in part(found, "ggufs").reason
    assert part(found, "card").reason.endswith("rendered again with the same bytes")
    assert "Q6_K: " in part(found, "evidence").reason


@pytest.mark.torch
def test_quants_are_made_again_and_nothing_stays_behind(tiny: Stage) -> None:
    place = tiny.work / "a" / "place"
    found = tiny.verify(requantize=True, work=place)
    quants = part(found, "ggufs")
    assert quants.verdict is Verdict.GOOD, quants
    assert {name for name, _, _ in quants.items} == {"tiny-gemma4-4e-Q6_K.gguf", "tiny-gemma4-4e-Q4_K_M.gguf"}
    assert found.verdict is Verdict.GOOD
    assert not list(place.iterdir())


DYING = """#!{python}
import os, signal, subprocess, sys
if "output.gguf" in sys.argv:
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(subprocess.run([{tool!r}, *sys.argv[1:]]).returncode)
"""


class Tasks:
    """A progress that remembers what was begun."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def note(self, text: str) -> None:
        pass

    @contextmanager
    def task(self, title: str, _total: int | None, _unit: str = "items") -> Iterator[Callable[[int], None]]:
        self.begun.append(title)
        yield lambda _count: None


@pytest.mark.torch
def test_a_run_that_was_killed_keeps_weights_and_conversion(
    tiny: Stage, toolchain: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools, work = tmp_path / "tools", tmp_path / "work"
    tools.mkdir()
    for name in toolchain.binaries:
        (tools / name).symlink_to(toolchain.binary(name))
    (tools / "llama-quantize").unlink()
    script = DYING.format(python=sys.executable, tool=str(toolchain.binary("llama-quantize")))
    (tools / "llama-quantize").write_text(script)
    (tools / "llama-quantize").chmod(0o755)
    monkeypatch.setenv("MOE_RELEASE_LLAMA_CPP_SOURCE", str(toolchain.converter().parent))
    quants = part(tiny.verify(requantize=True, work=work, llama_cpp=tools), "ggufs")
    assert "killed by signal 9" in quants.reason
    (folder,) = work.iterdir()
    assert folder.name.startswith("requantize-")
    (folder / "weights" / "config.json").write_text("damaged since")
    tasks = Tasks()
    quants = again(tiny, work, tasks)
    assert quants.verdict is Verdict.GOOD, quants
    assert "converting to GGUF" not in tasks.begun
    assert "writing shards" in tasks.begun, "what was damaged is made again"
    assert not list(work.iterdir())


def again(stage: Stage, work: Path, tasks: Tasks) -> Finding:
    where = {"base": str(stage.base), "endpoint": stage.hub.endpoint, "token": stage.hub.token}
    found = verify_published(Request(stage.repo, requantize=True, work=work, **where), progress=tasks)
    return part(found, "ggufs")


def test_without_the_base_quants_cannot_be_made_again(tiny: Stage) -> None:
    found = tiny.verify(requantize=True, base=None)
    quants = part(found, "ggufs")
    assert quants.verdict is Verdict.UNKNOWN
    assert "--base" in quants.reason
    assert part(found, "card").verdict is Verdict.UNKNOWN


def test_without_a_toolchain_quants_cannot_be_made_again(tiny: Stage, tmp_path: Path) -> None:
    quants = part(tiny.verify(requantize=True, llama_cpp=tmp_path), "ggufs")
    assert quants.verdict is Verdict.UNKNOWN
    assert "could not be made again" in quants.reason


def test_a_tampered_quant_is_bad_and_named(tiny: Stage) -> None:
    name = "tiny-gemma4-4e-Q6_K.gguf"
    tiny.change(name, lambda data: data[:-1] + bytes([data[-1] ^ 1]), GGUFS)
    quants = part(tiny.verify(), "ggufs")
    assert quants.verdict is Verdict.BAD
    assert quants.reason.startswith(f"{name}: has SHA-256")


def test_scores_that_do_not_add_up_are_bad(tiny: Stage) -> None:
    tiny.change_json(EVIDENCE, lambda evidence: evidence.update(patched_correct=evidence["patched_correct"] + 1))
    found = tiny.verify()
    assert part(found, "evidence").verdict is Verdict.BAD
    assert part(found, "evidence").reason.startswith(EVIDENCE)
    assert "patched_correct" in part(found, "evidence").reason
    assert part(found, "files").reason.startswith(EVIDENCE)
    assert part(found, "card").verdict is Verdict.BAD


def slower(timing: Any) -> None:
    timing["questions"][0]["raw"] += 1


def impossible(timing: Any) -> None:
    timing["questions"][3]["raw"] = 1e6


def negative(timing: Any) -> None:
    timing["questions"][3]["raw"] = -0.1


def shorter(timing: Any) -> None:
    timing["questions"].pop()


def swapped(timing: Any) -> None:
    timing["questions"].reverse()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (slower, None),
        (impossible, "does not fit its evidence: questions.3: took 1e+06 s"),
        (negative, "no timing: questions.3.raw"),
        (shorter, "does not fit its evidence: questions.239: is in the evidence alone"),
        (swapped, "does not fit its evidence: questions.0: is "),
    ],
)
def test_tampered_seconds_are_bad_and_located(tiny: Stage, change: Callable[[Any], None], problem: str | None) -> None:
    tiny.change_json(TIMING, change)
    found = tiny.verify()
    assert part(found, "files").verdict is Verdict.BAD
    assert part(found, "files").reason.startswith(f"{TIMING}: has SHA-256")
    evidence = part(found, "evidence")
    assert evidence.verdict is (Verdict.BAD if problem else Verdict.GOOD), "plausible seconds are caught by the lock alone"
    assert evidence.reason.startswith(f"{TIMING}: {problem}" if problem else "Q6_K: ")
    assert {finding.part for finding in found.findings if finding.verdict is Verdict.BAD} <= {"files", "evidence"}


def test_missing_seconds_are_bad(tiny: Stage) -> None:
    tiny.remove(TIMING)
    found = tiny.verify()
    assert part(found, "files").reason == f"{TIMING}: is locked, and missing from the repository"
    assert part(found, "evidence").reason == f"{TIMING}: the timing does not exist"


def unlisted(lock: Any) -> None:
    for quant in ("Q6_K", "Q4_K_M"):
        del lock["outputs"][f"eval/{quant}/timing.json"]


def test_a_release_from_before_seconds_were_published_is_good(tiny: Stage) -> None:
    tiny.change_json("reproduce/lock.json", unlisted)
    for quant in ("Q6_K", "Q4_K_M"):
        tiny.remove(f"reproduce/timing/{quant}.json")
    found = {finding.part: finding for finding in tiny.verify().findings}
    for name in ("consistency", "files", "evidence", "card"):
        assert found[name].verdict is Verdict.GOOD, found[name]


def test_seconds_that_nobody_locked_are_bad(tiny: Stage) -> None:
    tiny.change_json("reproduce/lock.json", unlisted)
    evidence = part(tiny.verify(), "evidence")
    assert evidence.verdict is Verdict.BAD
    assert evidence.reason == f"{TIMING}: stands there, and the lock does not list it (and 1 more)"


def test_a_lock_that_exempts_a_quant_is_refused(tiny: Stage) -> None:
    def exempt(lock: Any) -> None:
        lock["outputs"]["gguf/tiny-gemma4-4e-Q6_K.gguf"]["varies"] = True

    tiny.change_json("reproduce/lock.json", exempt)
    consistency = part(tiny.verify(), "consistency")
    assert consistency.verdict is Verdict.BAD
    assert "only seconds vary" in consistency.reason
    assert "gguf/tiny-gemma4-4e-Q6_K.gguf" in consistency.reason


def one_better(value: dict[str, Any]) -> dict[str, Any]:
    """Evidence that adds up, with one more right answer."""
    evidence = Evidence.model_validate(value)
    number = next(i for i, each in enumerate(evidence.questions) if each.outcome == "valid" and not each.raw_correct)
    better = evidence.questions[number].model_copy(
        update={"raw_correct": True, "raw_letter": evidence.questions[number].target}
    )
    questions = (*evidence.questions[:number], better, *evidence.questions[number + 1 :])
    made = evidence.model_copy(update={"questions": questions, **totals(questions)})
    result: dict[str, Any] = json.loads(evidence_bytes(made))
    return result


def test_scores_that_add_up_and_are_not_the_cards_are_bad_and_named(tiny: Stage) -> None:
    tiny.change(EVIDENCE, lambda data: json.dumps(one_better(json.loads(data))).encode())
    found = tiny.verify()
    assert part(found, "evidence").verdict is Verdict.GOOD, "they follow from the answers"
    assert part(found, "files").verdict is Verdict.BAD, "and are not the locked ones"
    card = part(found, "card")
    assert card.verdict is Verdict.BAD
    named = next(reason for name, _, reason in card.items if name.endswith("runs.0.raw_correct"))
    said, recomputed = map(int, re.findall(r"\d+", named))
    assert recomputed == said + 1


def test_evidence_of_another_file_is_bad(tiny: Stage) -> None:
    tiny.change_json(EVIDENCE, lambda evidence: evidence.update(model_sha256="0" * 64))
    assert "the lock's Q6_K has" in part(tiny.verify(), "evidence").reason


def test_evidence_of_another_quant_of_the_release_is_bad(tiny: Stage) -> None:
    other = json.loads(tiny.read("reproduce/evidence/Q4_K_M.json"))
    tiny.write(EVIDENCE, json.dumps({**other, "quant": "Q6_K"}).encode())
    evidence = part(tiny.verify(), "evidence")
    assert evidence.verdict is Verdict.BAD
    assert evidence.reason.startswith(
        f"{EVIDENCE}: is a run of a model with SHA-256 {other['model_sha256']}, the lock's Q6_K has"
    )


def test_evidence_of_the_right_answers_alone_is_bad(tiny: Stage) -> None:
    whole = Evidence.model_validate_json(tiny.read(EVIDENCE))
    tiny.write(EVIDENCE, evidence_bytes(cherry_picked(whole)))
    evidence = part(tiny.verify(), "evidence")
    assert evidence.verdict is Verdict.BAD
    assert f"questions is {whole.patched_correct}, the protocol has 240" in evidence.reason
    judgement = judged(cherry_picked(whole), whole, same_tools=False)
    assert judgement.verdict is Verdict.BAD
    assert "answered different questions" in judgement.reason


def test_a_partial_run_is_bad(tiny: Stage) -> None:
    tiny.change_json(EVIDENCE, lambda evidence: evidence.update(partial=True))
    assert part(tiny.verify(), "evidence").reason.startswith(f"{EVIDENCE}: the run is partial")


def test_evidence_that_its_gates_would_have_refused_is_bad(tiny: Stage) -> None:
    def looping(evidence: Any) -> None:
        for each in evidence["questions"]:
            each["looping"] = True

    tiny.change_json(EVIDENCE, looping)
    assert "looping: 240 of 240 replies" in part(tiny.verify(), "evidence").reason


def test_what_servers_elsewhere_answered_is_unknown(tiny: Stage) -> None:
    tiny.change_json(EVIDENCE, lambda evidence: evidence.update(unverified=["model_sha256", "server.threads"]))
    evidence = part(tiny.verify(), "evidence")
    assert evidence.verdict is Verdict.UNKNOWN
    assert evidence.reason.startswith(
        f"{EVIDENCE}: its servers ran elsewhere, and nobody saw their model_sha256, server.threads; --exam takes the exam again"
    )
    assert (TIMING, Verdict.GOOD, "") in evidence.items, "the rest is checked all the same"


def test_a_number_that_somebody_writes_into_the_card_is_found(tiny: Stage) -> None:
    tiny.change("README.md", lambda data: data.replace(b"\n## Rebuild", b"\nIt scores 99.9 % everywhere.\n\n## Rebuild"))
    card = part(tiny.verify(base=None), "card")
    found = part(tiny.verify(), "card")
    assert found.verdict is Verdict.BAD
    assert "99.9 % is shown by no claim" in found.reason
    assert card.verdict in (Verdict.BAD, Verdict.UNKNOWN)


def test_the_card_of_the_quants_is_rendered_again_too(tiny: Stage) -> None:
    tiny.change("README.md", lambda data: data.replace(b"Q6_K", b"Q9_K", 1), GGUFS)
    card = part(tiny.verify(), "card")
    assert card.verdict is Verdict.BAD
    assert card.reason.startswith("README.md of the GGUFs: line ")


def test_the_exam_needs_the_questions(tiny: Stage, tmp_path: Path) -> None:
    exam = part(tiny.verify(exam=True), "exam")
    assert exam.verdict is Verdict.UNKNOWN
    assert "--exam-data FILE" in exam.reason
    other = tmp_path / "other.jsonl"
    other.write_text("{}\n")
    exam = part(tiny.verify(exam=True, exam_data=other), "exam")
    assert exam.verdict is Verdict.UNKNOWN
    assert f"--exam-data {other}: has SHA-256 " in exam.reason
    assert part(tiny.verify(exam=True, exam_data=tmp_path / "none"), "exam").verdict is Verdict.UNKNOWN


def test_the_exam_taken_again_gives_the_same_evidence(tiny: Stage) -> None:
    place = tiny.work / "place"
    exam = part(tiny.verify(exam=True, exam_data=QUESTIONS, work=place), "exam")
    assert exam.verdict is Verdict.GOOD, exam
    assert exam.reason.endswith("the same evidence byte for byte")
    evidence = json.loads((place / "exam/Q6_K/evidence.json").read_bytes())
    assert evidence["total"] == 240
    again = part(tiny.verify(exam=True, exam_data=QUESTIONS, work=place), "exam")
    assert again == exam
    _settles_what_servers_elsewhere_answered(tiny, place)


def _settles_what_servers_elsewhere_answered(tiny: Stage, place: Path) -> None:
    """Nobody saw the model of those servers, and yet all that they said is what the quant says: of the examined one."""
    other = "reproduce/evidence/Q4_K_M.json"
    tiny.change_json(EVIDENCE, lambda evidence: evidence.update(unverified=["model_sha256"]))
    found = tiny.verify(exam=True, exam_data=QUESTIONS, work=place)
    assert part(found, "exam").verdict is part(found, "evidence").verdict is Verdict.GOOD
    words = "its servers ran elsewhere; the exam taken again here gives every answer the same"
    assert (EVIDENCE, Verdict.GOOD, words) in part(found, "evidence").items
    tiny.change_json(other, lambda evidence: evidence.update(unverified=["model_sha256"]))
    evidence = part(tiny.verify(exam=True, exam_data=QUESTIONS, work=place), "evidence")
    assert evidence.verdict is Verdict.UNKNOWN
    assert evidence.reason.startswith(f"{other}: its servers ran elsewhere")
    assert evidence.reason.endswith("--exam takes the exam of Q6_K again, and of no other quant")


def test_two_runs_that_differ_are_judged_by_their_tools(tiny: Stage, tmp_path: Path) -> None:
    path = tmp_path / "evidence.json"
    path.write_bytes(tiny.read(EVIDENCE))
    theirs = read_evidence(path)
    ours = Evidence.model_validate(one_better(json.loads(path.read_bytes())))
    assert judged(theirs, theirs, same_tools=True).verdict is Verdict.GOOD
    elsewhere = judged(theirs, ours, same_tools=False)
    assert elsewhere.verdict is Verdict.UNKNOWN
    assert "here 210: 1 answer differs" in elsewhere.reason
    assert judged(theirs, ours, same_tools=True).verdict is Verdict.BAD
    other = theirs.model_copy(update={"toolchain_commit": "f" * 40})
    same = judged(theirs, other, same_tools=False)
    assert same.verdict is Verdict.GOOD
    assert "every answer the same" in same.reason
