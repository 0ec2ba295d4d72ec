"""Files and replies that anybody may have written: each is read, or refused in one line that names the place."""

from __future__ import annotations

import copy
import json
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pruner.bounded import Limits
from pruner.errors import CheckFailedError, InputError
from release.evaluation.client import chat_message, completion_message
from release.evaluation.data import load_rows
from release.evaluation.evidence import evidence_bytes, read_evidence
from release.evaluation.ledger import Header, Ledger, Reply
from release.evaluation.lm_eval_run import read_lm_eval_files
from release.evaluation.outcomes import classify
from release.evaluation.patch import patched_letter
from release.evaluation.protocol import Loop, load_protocol, protocol_digest
from release.evaluation.remote import RemoteServer
from release.evaluation.settings import build_commit, differing_settings, template_digest
from release.evaluation.timing import misfits, read_timing, timing_bytes
from tests.conftest import MANIFESTS
from tests.hostile import FUZZ, assert_read_or_refused, changed_json, changed_yaml, hostile, spoiled

EVIDENCE = json.loads((MANIFESTS / "tiny" / "evidence" / "tiny-gemma4-16e-Q6_K.json").read_text())
EVIDENCE["questions"] = EVIDENCE["questions"][:3]
RUN = read_evidence(MANIFESTS / "tiny" / "evidence" / "tiny-gemma4-16e-Q6_K.json")
TIMING = {
    "schema_name": "moe-release/timing/v1",
    "protocol_digest": RUN.protocol_digest,
    "model_sha256": RUN.model_sha256,
    "questions": [
        {"question_digest": each.question_digest, "repeat": 0, "raw": 0.5, **({"patch": 0.1} if each.patched else {})}
        for each in RUN.questions[:5]
    ],
}
PROTOCOL_TEXT = (MANIFESTS / "protocols" / "tiny-exam.yaml").read_text()
PROTOCOL = yaml.safe_load(PROTOCOL_TEXT)
SAMPLE = {
    "resps": [["(A)"]],
    "filtered_resps": ["(A)"],
    "filter": "none",
    "metrics": ["acc"],
    "doc_hash": "d",
    "prompt_hash": "p",
    "acc": 1,
}
RESULTS = {
    "results": {"exam": {"acc,none": 1.0}},
    "configs": {"exam": {"repeats": 1}},
    "versions": {"exam": 1},
    "n-samples": {"exam": {"original": 1}},
    "config": {"random_seed": 0},
    "model_name": "m",
}
REPLY = Reply(kind="raw", question="q", prompt="p", attempt=1, seed=1, status=200, error=None, seconds=0.5)
HEADER = Header(protocol="p", model="m", toolchain="t")
CHAT = {
    "model": "tiny",
    "choices": [{"finish_reason": "stop", "message": {"content": "(A)", "reasoning_content": None}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
    "timings": {"prompt_ms": 1.0},
}

TINY = load_protocol(MANIFESTS / "protocols" / "tiny-exam.yaml", MANIFESTS)


@FUZZ
@given(st.data())
def test_evidence(tmp_path: Path, data: st.DataObject):
    path = tmp_path / "evidence.json"
    path.write_bytes(data.draw(changed_json(EVIDENCE)))
    assert_read_or_refused(lambda: evidence_bytes(read_evidence(path)), str(path), path.stat().st_size)


@FUZZ
@given(st.data())
def test_a_timing(tmp_path: Path, data: st.DataObject):
    path = tmp_path / "timing.json"
    path.write_bytes(data.draw(changed_json(TIMING)))

    def read() -> None:
        timing = read_timing(path)
        timing_bytes(timing)
        if problem := next(misfits(timing, RUN, 60.0), None):
            raise CheckFailedError(f"{path}: {problem}")

    assert_read_or_refused(read, str(path), path.stat().st_size)


@FUZZ
@given(st.data())
def test_a_ledger(tmp_path: Path, data: st.DataObject):
    path = tmp_path / "ledger.jsonl"
    header, reply = (each.model_dump(mode="json") for each in (HEADER, REPLY))
    spoilt = data.draw(changed_json(reply))
    path.write_bytes(b"".join(line + b"\n" for line in (json.dumps(header).encode(), spoilt, json.dumps(reply).encode())))

    def read() -> None:
        with closing(Ledger(path, HEADER)) as ledger:
            for each in ledger:
                each.digest()

    assert_read_or_refused(read, f"{path}:", path.stat().st_size)


@FUZZ
@given(st.data())
def test_a_protocol(tmp_path: Path, data: st.DataObject):
    path = tmp_path / "protocols" / "p.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data.draw(changed_yaml(PROTOCOL_TEXT)))
    assert_read_or_refused(lambda: protocol_digest(load_protocol(path, tmp_path)), str(path), path.stat().st_size)


@FUZZ
@given(st.data(), st.booleans())
def test_an_lm_eval_output(tmp_path: Path, data: st.DataObject, of_results: bool):
    samples, results = tmp_path / "samples_exam.jsonl", tmp_path / "results_exam.json"
    changed = data.draw(changed_json(RESULTS if of_results else SAMPLE))
    samples.write_bytes(json.dumps(SAMPLE).encode() if of_results else changed)
    results.write_bytes(changed if of_results else json.dumps(RESULTS).encode())

    def read() -> None:
        json.dumps(read_lm_eval_files(samples, results).model_dump(mode="json"), ensure_ascii=False).encode()

    assert_read_or_refused(read, str(tmp_path), len(changed))


@FUZZ
@given(st.data())
def test_a_servers_replies_become_ledger_lines(tmp_path: Path, data: st.DataObject):
    path = tmp_path / "reply.jsonl"
    path.unlink(missing_ok=True)
    message = chat_message(spoiled(data.draw, CHAT), "tiny")
    completion = completion_message(
        spoiled(data.draw, CHAT | {"content": "A", "stop_type": "limit", "tokens_predicted": 1}), "tiny"
    )
    with closing(Ledger(path, HEADER)) as ledger:
        for each in (message, completion):
            values = REPLY.model_dump() | each.fields()
            ledger.append(Reply.model_validate(values))
    with closing(Ledger(path, HEADER)) as ledger:
        for reply in ledger:
            classify(reply, None, Loop())
            assert len(reply.digest()) == 64


@FUZZ
@given(st.data())
def test_a_servers_settings_are_compared(data: st.DataObject):
    params = TINY.sampling.model_dump(mode="json")
    props = {
        "default_generation_settings": {"params": params, "n_ctx": 1024},
        "total_slots": 1,
        "build_info": "b1-0c1e57098",
        "chat_template": "t",
    }
    found = spoiled(data.draw, props)
    assert all(len(each) < 1000 for each in differing_settings(TINY, found))
    build_commit(found), template_digest(found)


@FUZZ
@given(st.data())
def test_a_servers_model_is_compared(data: st.DataObject):
    server = RemoteServer("http://127.0.0.1:9", protocol=TINY, identity={"n_params": 5, "chat_template": "t"})
    server.props = {"chat_template": data.draw(hostile)}
    assert all(len(each) < 1000 for each in server._other_model({"id": "m", "meta": data.draw(hostile)}))
    server.stop()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, r"evidence\.json: evidence is not usable JSON"),
        ('{"partial":' + "9" * 5000 + "}", "not usable JSON"),
        ('{"a": 1, "a": 2}', "key 'a' appears twice"),
        (b"\xff\xfe\x00", "evidence is no text; JSON was expected"),
        ("null", "no evidence"),
    ],
)
def test_what_is_hardly_json_is_refused(tmp_path: Path, content: str | bytes, message: str):
    path = tmp_path / "evidence.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        read_evidence(path)


def test_a_folder_or_a_giant_is_no_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match="evidence is a folder, not a file"):
        read_evidence(tmp_path)
    monkeypatch.setattr("release.evaluation.evidence.LARGEST_EVIDENCE", 10)
    (tmp_path / "evidence.json").write_text(json.dumps(EVIDENCE))
    with pytest.raises(InputError, match="evidence is larger than 10 bytes"):
        read_evidence(tmp_path / "evidence.json")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.jsonl", "[" * 100_000, r"q\.jsonl:1: not usable JSON"),
        ("q.jsonl", '{"Question": ' + "9" * 5000 + "}", r"q\.jsonl:1: not usable JSON"),
        ("q.jsonl", '{"Record ID": "1", "Question": "\\ud800"}', "question 1 has no text in column 'Question'"),
        ("q.csv", "Record ID,Question\n1,2,3\n", "more cells than there are columns"),
        ("q.csv", "Record ID,Question\n1," + "x" * 200_000 + "\n", "not CSV: field larger than field limit"),
    ],
)
def test_a_data_set_is_refused_in_one_line(tmp_path: Path, name: str, content: str, message: str):
    from pruner.files import sha256_bytes

    (tmp_path / name).write_text(content)
    data = TINY.data.model_copy(update={"path": name, "sha256": sha256_bytes(content.encode()), "questions": 1})
    with pytest.raises(InputError, match=message):
        load_rows(data, tmp_path)


def test_two_questions_of_one_id_are_refused_before_the_run(tmp_path: Path):
    from pruner.files import sha256_bytes

    row = {"Record ID": "1", **dict.fromkeys(TINY.data.option_columns, "x")}
    content = "".join(json.dumps(row | {"Question": text}) + "\n" for text in ("a", "b")).encode()
    (tmp_path / "q.jsonl").write_bytes(content)
    data = TINY.data.model_copy(update={"path": "q.jsonl", "sha256": sha256_bytes(content), "questions": 2})
    with pytest.raises(CheckFailedError, match="two questions have the same 'Record ID'"):
        load_rows(data, tmp_path)


@pytest.mark.parametrize("pattern", ["(" * 5000 + ")" * 5000, "(a{99999999999999999999})", "(a", "a"])
def test_a_pattern_that_cannot_be_is_refused(tmp_path: Path, pattern: str):
    value = copy.deepcopy(PROTOCOL)
    value["patch"]["answer_pattern"] = pattern
    (tmp_path / "p.yaml").write_text(json.dumps(value))
    with pytest.raises(InputError, match=r"patch\.answer_pattern: (no regular expression|must have exactly one group)"):
        load_protocol(tmp_path / "p.yaml", tmp_path)


def test_a_pattern_that_finds_no_end_is_refused(monkeypatch: pytest.MonkeyPatch):
    assert TINY.patch
    monkeypatch.setattr("release.evaluation.patch.PATTERN_LIMITS", Limits(memory=64 << 20, seconds=1, answer=1000))
    slow = TINY.patch.model_copy(update={"answer_pattern": "([A-D]+)+$"})
    words = {"question": "0" * 64, "prompt": "0" * 64, "status": 200, "error": None, "text": "", "seconds": 1.0}
    reply = Reply.model_validate({"kind": "patch", "attempt": 1, "seed": 1, "content": "A" * 50 + "!", **words})
    with pytest.raises(
        InputError, match=r"^patch\.answer_pattern .* on a reply of 51 characters: takes more than 1 seconds of"
    ):
        patched_letter(slow, reply, "ABCD")
    plain = TINY.patch.model_copy(update={"answer_pattern": "([A-Da-d])!$"})
    assert patched_letter(plain, reply, "ABCD") == "A"
    assert patched_letter(plain, reply.model_copy(update={"content": "E!"}), "ABCD") is None
    assert patched_letter(plain, reply.model_copy(update={"content": None}), "ABCD") is None
