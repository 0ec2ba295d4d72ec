"""Protocols: what they must say, what their digest covers, and where their data may stand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pruner.calibration import question_digest
from pruner.errors import CheckFailedError, InputError, UnavailableError
from pruner.files import sha256_bytes
from pruner.option_order import option_order
from release.evaluation.data import OrderedRows, digest_of_questions, load_rows, questions_of
from release.evaluation.evidence import evidence_bytes, read_evidence
from release.evaluation.protocol import Protocol, load_protocol, protocol_digest
from release.gguf.toolchain import PINNED_COMMIT

Value = dict[str, Any]


@pytest.fixture
def committed(manifests: Path) -> Value:
    return dict(yaml.safe_load((manifests / "protocols" / "tiny-exam.yaml").read_text()))


def write(root: Path, value: Value, name: str = "p") -> Path:
    path = root / "protocols" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(yaml.safe_dump(value))
    return path


def set_at(value: Value, path: str, new: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        value = value[parent]
    value[last] = new


@pytest.mark.parametrize("name", ["tiny-exam", "gpqa-diamond-v1", "gpqa-diamond-card-v3"])
def test_committed_protocols_are_complete(manifests: Path, name: str):
    protocol = load_protocol(manifests / "protocols" / f"{name}.yaml", manifests)
    assert protocol.name == name
    assert protocol.task.filter == "flexible-extract"
    fields = protocol.request_fields()
    assert {"min_p", "top_p", "top_k", "temperature", "seed", "dry_multiplier", "dry_penalty_last_n", "samplers"} <= set(fields)
    assert fields["cache_prompt"] is False


def test_the_cards_protocol_has_the_cards_values_and_the_defaults_that_filled_its_gaps(manifests: Path):
    protocol = load_protocol(manifests / "protocols" / "gpqa-diamond-card-v3.yaml", manifests)
    server, sampling = protocol.server, protocol.sampling
    assert (server.context, server.gpu_layers) == (32768, 99)
    assert (server.reasoning_format, server.reasoning_budget, protocol.max_tokens) == ("deepseek", 16384, 24576)
    assert (protocol.task.name, protocol.task.filter) == ("gpqa_diamond_cot_zeroshot", "flexible-extract")
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.dry_multiplier) == (1.0, 0.95, 64, 0.5)
    assert (sampling.min_p, sampling.seed) == (0.05, 1234)
    assert protocol.patch is not None
    assert (protocol.patch.method, protocol.patch.prefill, protocol.patch.max_tokens) == ("prefill-v1", "The answer is (", 10)
    ours = load_protocol(manifests / "protocols" / "gpqa-diamond-v1.yaml", manifests)
    assert protocol_digest(ours) != protocol_digest(protocol)
    assert ours.data == protocol.data
    assert ours.server.llama_cpp_commit == PINNED_COMMIT, "ours is complete: another build may answer otherwise"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch.open_thought": ""}, "continue-v1 needs open_thought and close_thought"),
        ({"patch.close_thought": ""}, "continue-v1 needs open_thought and close_thought"),
        ({"server.reasoning_format": "none"}, "continue-v1 needs a reasoning_format that keeps thoughts"),
    ],
)
def test_a_patch_that_continues_thoughts_needs_them(tmp_path: Path, committed: Value, changes: Value, message: str):
    good = {"patch.method": "continue-v1", "patch.open_thought": "<think>", "patch.close_thought": "</think>"}
    for path, value in good.items():
        set_at(committed, path, value)
    load_protocol(write(tmp_path, committed), tmp_path)
    for path, value in changes.items():
        set_at(committed, path, value)
    with pytest.raises(InputError, match=message):
        load_protocol(write(tmp_path, committed), tmp_path)


def test_what_a_loop_is_stands_in_the_digest_where_it_is_said(tmp_path: Path, committed: Value):
    before = protocol_digest(load_protocol(write(tmp_path, committed), tmp_path))
    committed["gates"]["loop"] = {"repeats": 8, "characters": 64, "longest": 400}
    assert protocol_digest(load_protocol(write(tmp_path, committed), tmp_path)) == before, "as it was before it could be said"
    committed["gates"]["loop"]["repeats"] = 9
    assert protocol_digest(load_protocol(write(tmp_path, committed), tmp_path)) != before
    committed["gates"]["loop"]["ngrams"] = {"length": 3, "words": 2, "share": 0.5}
    with pytest.raises(InputError, match="length 3 is more than all of 2 words"):
        load_protocol(write(tmp_path, committed), tmp_path)
    committed["gates"]["loop"]["ngrams"] = {"length": 50_000, "words": 100_000, "share": 0.5}
    with pytest.raises(InputError, match="length: input should be less than or equal to 64"):
        load_protocol(write(tmp_path, committed), tmp_path)


def test_a_gate_that_is_not_set_is_no_part_of_the_digest(tmp_path: Path, committed: Value):
    before = protocol_digest(load_protocol(write(tmp_path, committed), tmp_path))
    committed["gates"]["reference"] = False
    assert protocol_digest(load_protocol(write(tmp_path, committed), tmp_path)) == before
    committed["gates"]["reference"] = True
    assert protocol_digest(load_protocol(write(tmp_path, committed), tmp_path)) != before


def test_the_committed_evidence_follows_the_committed_protocol(manifests: Path):
    """What was added to protocols and evidence since must not have changed their digests and bytes."""
    path = manifests / "tiny" / "evidence" / "tiny-gemma4-16e-Q6_K.json"
    evidence = read_evidence(path)
    assert evidence.protocol_digest == protocol_digest(load_protocol(manifests / "protocols" / "tiny-exam.yaml", manifests))
    assert evidence_bytes(evidence) == path.read_bytes()


def test_the_committed_exam_is_the_one_that_its_protocol_names(manifests: Path):
    protocol = load_protocol(manifests / "protocols" / "tiny-exam.yaml", manifests)
    assert len(load_rows(protocol.data, manifests)) == protocol.data.questions


def test_the_data_path_may_leave_the_protocols_folder_but_not_the_manifests(tmp_path: Path, committed: Value):
    protocol = load_protocol(write(tmp_path, committed), tmp_path)
    assert protocol.data.path == "tiny/exam/held_out.jsonl"
    committed["data"]["path"] = "../../elsewhere.jsonl"
    with pytest.raises(InputError, match=r"p\.yaml: data\.path .*may not leave"):
        load_protocol(write(tmp_path, committed), tmp_path)
    committed["data"]["path"] = "/etc/passwd"
    with pytest.raises(InputError, match="must be relative"):
        load_protocol(write(tmp_path, committed), tmp_path)


def test_a_symbolic_link_may_not_leave_the_manifests(tmp_path: Path, committed: Value):
    (tmp_path / "outside").mkdir()
    (tmp_path / "root" / "tiny").mkdir(parents=True)
    (tmp_path / "root" / "tiny" / "exam").symlink_to(tmp_path / "outside")
    (tmp_path / "outside" / "held_out.jsonl").write_text("{}")
    with pytest.raises(InputError, match="symbolic link"):
        load_protocol(write(tmp_path / "root", committed), tmp_path / "root")


def every_leaf(value: Value, prefix: str = "") -> list[str]:
    leaves = []
    for key, each in value.items():
        nested = isinstance(each, dict) and each and key != "template_kwargs"
        leaves += every_leaf(each, f"{prefix}{key}.") if nested else [prefix + key]
    return leaves


def test_every_key_must_be_written_down(tmp_path: Path, committed: Value, manifests: Path):
    """No part of a score hides in a default: without any one key the protocol is refused (data has two forms)."""
    text = json.dumps(committed)
    leaves = [leaf for leaf in every_leaf(committed) if not leaf.startswith("data.")]
    assert len(leaves) > 50
    for leaf in leaves:
        value = json.loads(text)
        *parents, last = leaf.split(".")
        target = value
        for parent in parents:
            target = target[parent]
        del target[last]
        with pytest.raises(InputError, match=rf"{last}'? is missing"):
            load_protocol(write(tmp_path, value), tmp_path)


CHANGES = [
    ("lm_eval", "0.4.14"),
    ("task.version", 2.1),
    ("task.filter", "strict-match"),
    ("data.sha256", "0" * 64),
    ("chat.template_kwargs", {"enable_thinking": False}),
    ("server.context", 2048),
    ("server.threads", 3),
    ("server.reasoning_budget", 16),
    ("sampling.min_p", 0.05),
    ("sampling.dry_penalty_last_n", -1),
    ("sampling.seed", 43),
    ("sampling.samplers", ["top_k", "temperature"]),
    ("max_tokens", 63),
    ("stop", []),
    ("limits.request_seconds", 61),
    ("patch.outcomes", ["empty"]),
    ("patch.prefill", "Answer: ("),
    ("patch", None),
    ("gates.truncated", 0.5),
]


@pytest.mark.parametrize(("path", "new"), CHANGES, ids=[path for path, _ in CHANGES])
def test_what_can_move_a_score_changes_the_digest(tmp_path: Path, committed: Value, path: str, new: Any):
    before = protocol_digest(load_protocol(write(tmp_path, committed), tmp_path))
    set_at(committed, path, new)
    assert protocol_digest(load_protocol(write(tmp_path, committed), tmp_path)) != before


def test_names_spelling_and_places_do_not_change_the_digest(tmp_path: Path, committed: Value):
    before = protocol_digest(load_protocol(write(tmp_path, committed), tmp_path))
    committed["name"] = "another"
    committed["data"]["path"] = "other.jsonl"
    committed["sampling"] = dict(sorted(committed["sampling"].items(), reverse=True)) | {"temperature": 0}
    assert protocol_digest(load_protocol(write(tmp_path, committed), tmp_path)) == before


def test_a_data_sets_address_is_the_same_protocol_as_its_keys(tmp_path: Path, manifests: Path):
    value = yaml.safe_load((manifests / "protocols" / "gpqa-diamond-v1.yaml").read_text())
    before = load_protocol(write(tmp_path, value), tmp_path)
    data = value["data"]
    data["path"] = f"hf://{data.pop('repository')}@{data.pop('revision')}/{data.pop('file')}"
    assert load_protocol(write(tmp_path, value), tmp_path) == before
    assert protocol_digest(load_protocol(write(tmp_path, value), tmp_path)) == protocol_digest(before)
    data["path"] = data["path"].replace("@633f", "@main")
    with pytest.raises(InputError, match=r"p\.yaml:\d+:\d+: data: .*write hf://owner/name@revision/path/file"):
        load_protocol(write(tmp_path, value), tmp_path)


@pytest.mark.parametrize(
    ("path", "new", "message"),
    [
        ("server.slots", 4, "server.slots"),
        ("server.prompt_cache", True, "server.prompt_cache"),
        ("max_tokens", 1024, "context 1024 has no room"),
        ("server.reasoning_budget", 5000, "leaves no room"),
        ("patch.outcomes", ["valid"], "may not touch a valid answer"),
        ("patch.outcomes", ["empty", "empty"], "named twice"),
        ("patch.attempts", 7, "patch.attempts"),
        ("patch.answer_pattern", "(", "no regular expression"),
        ("patch.answer_pattern", "[A-D]", "exactly one group"),
        ("stop", [""], "empty stop string"),
        ("data.repository", "a/b", "excludes"),
        ("data.path", None, "give either"),
        ("data.correct_column", "Question", "must be one of"),
        ("gates.truncated", 1.5, "gates.truncated"),
    ],
)
def test_a_protocol_that_cannot_work_is_refused(tmp_path: Path, committed: Value, path: str, new: Any, message: str):
    set_at(committed, path, new)
    with pytest.raises(InputError, match=message):
        load_protocol(write(tmp_path, committed), tmp_path)


def test_an_unknown_key_is_named_with_its_place(tmp_path: Path, committed: Value):
    committed["sampling"]["min_pp"] = committed["sampling"].pop("min_p")
    with pytest.raises(InputError, match=r"p\.yaml:\d+:\d+: unknown key 'sampling\.min_pp'; did you mean 'min_p'"):
        load_protocol(write(tmp_path, committed), tmp_path)


def test_a_tasks_own_shuffle_becomes_the_order_of_the_question(committed: Value):
    """Whatever the global generator's state, and without touching it."""
    import random

    pytest.importorskip("datasets", reason="comes with the eval extra")

    def process(row: dict[str, str]) -> dict[str, Any]:
        options = [row[name] for name in committed["data"]["option_columns"]]
        random.shuffle(options)
        return {"choices": options}

    rows = [ROW | {"Question": f"Question {number}?", "Record ID": str(number)} for number in range(50)]
    random.seed(1)
    first = list(OrderedRows(rows, "Question").map(process))
    random.seed(2)
    state = random.getstate()
    second = list(OrderedRows(rows, "Question").map(process))
    assert first == second
    assert random.getstate() == state
    for row, doc in zip(rows, first, strict=True):
        columns = [committed["data"]["option_columns"][index] for index in option_order(row["Question"])]
        assert doc["choices"] == [row[column] for column in columns]
    assert len({tuple(doc["choices"]) for doc in first}) > 15


def rows_file(root: Path, rows: list[Value], suffix: str = "jsonl") -> Path:
    path = root / f"rows.{suffix}"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def data_for(committed: Value, root: Path, path: Path, questions: int) -> Protocol:
    committed["data"] |= {"path": f"../{path.name}", "sha256": sha256_bytes(path.read_bytes()), "questions": questions}
    return load_protocol(write(root, committed), root)


ROW = {
    "Record ID": "1",
    "Question": "Which?",
    "Correct Answer": "right",
    "Incorrect Answer 1": "a",
    "Incorrect Answer 2": "b",
    "Incorrect Answer 3": "c",
}


@pytest.mark.parametrize(
    ("rows", "questions", "kind", "message"),
    [
        ([ROW], 2, CheckFailedError, "1 question, the protocol names 2"),
        ([ROW, ROW], 2, CheckFailedError, "two questions have the same 'Record ID'"),
        ([ROW, ROW | {"Record ID": "another"}], 2, CheckFailedError, "a question appears twice"),
        ([ROW | {"Correct Answer": 7}], 1, InputError, "question 1 has no text in column 'Correct Answer'"),
        ([{"Question": "?"}], 1, InputError, "has no text in column 'Record ID'"),
        ([[]], 1, InputError, "question 1 is no object"),
    ],
)
def test_a_data_set_that_is_not_the_protocols_is_refused(
    tmp_path: Path, committed: Value, rows: list[Any], questions: int, kind: type[Exception], message: str
):
    protocol = data_for(committed, tmp_path, rows_file(tmp_path, rows), questions)
    with pytest.raises(kind, match=message):
        load_rows(protocol.data, tmp_path)


def test_a_changed_data_set_is_refused_with_both_digests(tmp_path: Path, committed: Value):
    path = rows_file(tmp_path, [ROW])
    protocol = data_for(committed, tmp_path, path, 1)
    path.write_text(path.read_text().replace("right", "wrong"))
    with pytest.raises(CheckFailedError, match=r"sha256 is [0-9a-f]{64}, the protocol names [0-9a-f]{64}"):
        load_rows(protocol.data, tmp_path)


def test_questions_whose_digest_the_protocol_does_not_name_are_refused(tmp_path: Path, committed: Value):
    """The file may be another rendering of the same questions: then only their digest tells."""
    digest = digest_of_questions([question_digest(ROW["Question"])])
    committed["data"]["question_digests"] = digest
    assert load_rows(data_for(committed, tmp_path, rows_file(tmp_path, [ROW]), 1).data, tmp_path) == [ROW]
    other = rows_file(tmp_path, [ROW | {"Question": "Another one?"}])
    with pytest.raises(CheckFailedError, match=r"rows\.jsonl: these are not the questions whose digest the protocol names"):
        load_rows(data_for(committed, tmp_path, other, 1).data, tmp_path)


def test_damaged_and_missing_files_get_one_line(tmp_path: Path, committed: Value):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b"\n')
    with pytest.raises(InputError, match=r"rows\.jsonl:2:\d+: not JSON"):
        load_rows(data_for(committed, tmp_path, path, 1).data, tmp_path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        load_rows(data_for(committed, tmp_path, path, 1).data, tmp_path)
    protocol = data_for(committed, tmp_path, path, 1)
    path.unlink()
    with pytest.raises(InputError, match=r"rows\.jsonl: data set cannot be read"):
        load_rows(protocol.data, tmp_path)


def test_csv_cells_stay_text(tmp_path: Path, committed: Value):
    path = tmp_path / "rows.csv"
    row = ROW | {"Correct Answer": "42", "Question": 'With "quotes",\nand a line'}
    quoted = ['"' + text.replace('"', '""') + '"' for text in row.values()]
    path.write_text(",".join(row) + "\n" + ",".join(quoted) + "\n")
    protocol = data_for(committed, tmp_path, path, 1)
    assert load_rows(protocol.data, tmp_path) == [row]
    (question,) = questions_of(protocol.data, [row])
    assert question.target == "ABCD"[question.order.index(3)]


def test_a_gated_data_set_says_what_to_accept_where(manifests: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The real client against a Hub that refuses, as the real one does without access."""
    import http.server
    import threading

    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(401)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("X-Error-Message", "Access to dataset Idavidrein/gpqa is restricted.")
            self.end_headers()

        do_GET = do_HEAD  # noqa: N815  # the library's name

        def log_message(self, *_words: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        import huggingface_hub.constants

        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
        protocol = load_protocol(manifests / "protocols" / "gpqa-diamond-v1.yaml", manifests)
        with pytest.raises(
            UnavailableError, match=r"is gated: open http://\S+/datasets/Idavidrein/gpqa, log in and accept its terms"
        ):
            load_rows(protocol.data, manifests)
    finally:
        server.shutdown()
        server.server_close()
