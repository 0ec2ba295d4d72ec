"""Every way in which a server can go wrong: each outcome as named, nothing lost, no hang."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pruner.errors import CheckFailedError
from release.evaluation import interview
from release.evaluation.evidence import evidence_bytes

from .conftest import Bench, Faults, MakeProtocol
from .runs import ledger_lines

pytestmark = pytest.mark.llama

PLAN = {
    "ok": ("valid", None),
    "parser": ("failed", "parser"),
    "busy": ("failed", "http"),
    "empty": ("empty", "no answer"),
    "null_content": ("empty", "no answer"),
    "prose": ("unparsable", "no answer"),
    "half": ("truncated", "length"),
    "surrogate": ("valid", None),
    "other_model": ("failed", "malformed"),
    "null": ("failed", "malformed"),
    "no_choices": ("failed", "malformed"),
    "torn_json": ("failed", "malformed"),
    "short_body": ("failed", "connection"),
    "slow": ("failed", "time-out"),
    "trickle": ("failed", "time-out"),
    "reset": ("failed", "connection"),
}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Choose requests, by number, of which nobody waits for the reply for long; all others may take their time."""

    def choose(*numbers: int, post: Any = interview.post) -> None:
        asked: list[str] = []

        def ask(client: Any, url: str, fields: dict[str, Any], *, seconds: float) -> Any:
            asked.append(url)
            return post(client, url, fields, seconds=0.5 if len(asked) - 1 in numbers else seconds)

        monkeypatch.setattr(interview, "post", ask)

    return choose


def left_over() -> list[str]:
    return [child.name() for child in psutil.Process().children(recursive=True) if "llama-server" in " ".join(child.cmdline())]


def test_each_fault_has_its_outcome_and_each_named_outcome_its_patch(
    bench: Bench, faults: Faults, make_protocol: MakeProtocol, tmp_path: Path, impatient: Callable[..., None]
):
    protocol = make_protocol(questions=len(PLAN), max_tokens=80, limits__retries=0)
    faults.set(**{f"q{number}": [fault] for number, fault in enumerate(PLAN)})
    impatient(*(number for number, fault in enumerate(PLAN) if fault in ("slow", "trickle")))
    evidence = bench.run(protocol, tmp_path / "run", server_binary=faults.binary)
    found = {fault: (each.outcome, each.cause) for fault, each in zip(PLAN, evidence.questions, strict=True)}
    assert found == PLAN
    assert protocol.patch is not None
    for fault, each in zip(PLAN, evidence.questions, strict=True):
        assert (each.patched is not None) == (each.outcome in protocol.patch.outcomes), fault
        assert each.patched is None or each.patched.letter is not None, fault
    assert evidence.outcomes == {"valid": 2, "empty": 2, "truncated": 1, "unparsable": 1, "failed": 10}
    assert evidence.total == len(PLAN) == sum(evidence.outcomes.values())
    raw = ledger_lines(tmp_path / "run", "raw")
    assert len(raw) == len(PLAN)
    assert "does not match the expected peg-gemma4 format" in str(raw[1]["text"])
    assert raw[1]["error"].startswith("HTTP 500: ")
    assert not left_over()


@pytest.mark.parametrize("fault", ["parser", "reset", "torn_json", "die", "slow"])
def test_a_fault_that_happens_once_leaves_no_trace_in_the_evidence(
    bench: Bench, faults: Faults, make_protocol: MakeProtocol, tmp_path: Path, impatient: Callable[..., None], fault: str
):
    protocol = make_protocol(questions=4, limits__retries=1)
    faults.set(q2=[fault, "ok"])
    if fault == "slow":
        impatient(2)
    disturbed = bench.run(protocol, tmp_path / "disturbed", server_binary=faults.binary)
    assert evidence_bytes(disturbed) == evidence_bytes(bench.run(protocol, tmp_path / "quiet"))
    attempts = [(line["attempt"], line["error"] is None) for line in ledger_lines(tmp_path / "disturbed", "raw")]
    assert attempts == [(1, True), (1, True), (1, False), (2, True), (1, True)]
    record = json.loads((tmp_path / "disturbed" / "run.json").read_text())
    assert len(record["failed_attempts"]) == 1
    assert record["server_restarts"] == (1 if fault == "die" else 0)
    assert not left_over()


def test_a_resumed_run_asks_only_what_failed(bench: Bench, faults: Faults, make_protocol: MakeProtocol, tmp_path: Path):
    protocol = make_protocol(questions=5, limits__retries=1)
    faults.set(q1=["parser"], q3=["busy"])
    sick = bench.run(protocol, tmp_path / "run", server_binary=faults.binary)
    assert sick.outcomes["failed"] == 2
    healed = bench.run(protocol, tmp_path / "run")
    assert healed.outcomes["failed"] == 0
    assert evidence_bytes(healed) == evidence_bytes(bench.run(protocol, tmp_path / "quiet"))
    attempts = [line["attempt"] for line in ledger_lines(tmp_path / "run", "raw")]
    assert attempts == [1, 1, 2, 1, 1, 2, 1, 3, 3]


def test_a_patch_of_a_reply_that_was_replaced_is_made_again(
    bench: Bench, faults: Faults, make_protocol: MakeProtocol, tmp_path: Path
):
    """The first reply failed and had no thought to go on from; the second has one, and needs its patch too."""
    patch = {"method": "continue-v1", "open_thought": "<|channel>thought\n", "close_thought": "<channel|>"}
    changes = {f"patch__{name}": value for name, value in patch.items()}
    protocol = make_protocol(questions=3, max_tokens=10, limits__retries=0, **changes)
    faults.set(q1=["parser"])
    sick = bench.run(protocol, tmp_path / "run", server_binary=faults.binary)
    assert [each.outcome for each in sick.questions] == ["truncated", "failed", "truncated"]
    healed = bench.run(protocol, tmp_path / "run")
    assert [each.outcome for each in healed.questions] == ["truncated"] * 3
    assert evidence_bytes(healed) == evidence_bytes(bench.run(protocol, tmp_path / "quiet"))
    assert [line["attempt"] for line in ledger_lines(tmp_path / "run", "patch")] == [1, 1, 1, 2]


def test_too_many_failures_stop_the_run_at_once_and_lose_nothing(
    bench: Bench, faults: Faults, make_protocol: MakeProtocol, tmp_path: Path
):
    protocol = make_protocol(questions=8, limits__retries=0, gates__empty_or_failed=0.25)
    faults.set(**{f"q{number}": ["parser"] for number in range(2, 8)})
    with pytest.raises(
        CheckFailedError, match=r"stopped: 3 of 8 questions failed, the limit .* is 25\.0%; last: HTTP 500: .*peg"
    ):
        bench.run(protocol, tmp_path / "run", server_binary=faults.binary)
    assert not (tmp_path / "run" / "evidence.json").exists()
    assert len(ledger_lines(tmp_path / "run", "raw")) == 5
    assert not left_over()


def test_every_setting_of_the_protocol_reaches_the_server(
    bench: Bench, faults: Faults, make_protocol: MakeProtocol, tmp_path: Path
):
    changes = {"temperature": 0.7, "min_p": 0.05, "dry_multiplier": 0.5, "dry_allowed_length": 3, "xtc_probability": 0.1}
    protocol = make_protocol(
        questions=2,
        repeats=2,
        stop=["</s>", "Q:"],
        server__reasoning_budget=30,
        **{f"sampling__{name}": value for name, value in changes.items()},
    )
    bench.run(protocol, tmp_path / "run", server_binary=faults.binary)
    seeds = {line["seed"] for line in ledger_lines(tmp_path / "run", "raw")}
    assert len(seeds) == len(faults.bodies) == 4
    for body in faults.bodies:
        assert body.pop("seed") in seeds
        assert [set(message) for message in body.pop("messages")] == [{"role", "content"}]
        assert body == {
            **protocol.sampling.model_dump(mode="json", exclude={"seed"}),
            "model": f"Q6_K-{bench.model_sha256[:12]}",
            "max_tokens": 36,
            "stop": ["</s>", "Q:"],
            "stream": False,
            "cache_prompt": False,
            "reasoning_format": "deepseek",
            "reasoning_budget_tokens": 30,
            "reasoning_budget_message": "",
            "chat_template_kwargs": {"enable_thinking": True},
        }


def test_a_real_parser_failure_is_patched(
    bench: Bench, faults: Faults, make_protocol: MakeProtocol, tmp_path: Path, continued: list[str]
):
    """The real server answers 500 when the model writes what its chat parser does not know; /completion goes past it."""
    protocol = make_protocol(questions=3, limits__retries=0)
    faults.set(q1=["stray_channel"])
    evidence = bench.run(protocol, tmp_path / "run", server_binary=faults.binary)
    assert [each.outcome for each in evidence.questions] == ["valid", "failed", "valid"]
    assert evidence.questions[1].cause == "parser"
    assert evidence.questions[1].patched is not None
    assert evidence.questions[1].patched.letter in "ABCD"
    (failed,) = [line for line in ledger_lines(tmp_path / "run", "raw") if line["error"]]
    assert "does not match the expected" in str(failed["text"])
    (patch,) = ledger_lines(tmp_path / "run", "patch")
    (prompt,) = continued
    assert "<bos>" not in prompt  # the server adds it
    assert prompt.endswith("<|turn>model\nThe answer is (")
    assert "What is the correct answer" in prompt
    assert "What is the correct answer" not in (tmp_path / "run" / "ledger.jsonl").read_text()
    assert json.loads(str(patch["text"]))["content"] == patch["content"]
    assert evidence_bytes(bench.run(protocol, tmp_path / "run")) == evidence_bytes(bench.run(protocol, tmp_path / "quiet"))
