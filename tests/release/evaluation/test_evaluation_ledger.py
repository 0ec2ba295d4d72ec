"""The ledger: nothing lost, nothing asked twice, nothing mixed up."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from pruner.errors import CheckFailedError, InputError
from release.evaluation.ledger import Header, Ledger, Reply

HEADER = Header(protocol="a" * 64, model="b" * 64, toolchain="0c1e570")


def reply(question: str = "q", *, attempt: int = 1, error: str | None = None, content: str = "The answer is (A).") -> Reply:
    return Reply(
        kind="raw",
        question=question,
        prompt="p",
        attempt=attempt,
        seed=42,
        status=200,
        error=error,
        content=content,
        finish_reason="stop",
        text="{}",
        seconds=0.5,
    )


def fill(path: Path, *replies: Reply) -> None:
    with closing(Ledger(path, HEADER)) as ledger:
        for each in replies:
            ledger.append(each)


def test_a_reopened_ledger_has_every_reply_and_the_last_one_counts(tmp_path: Path):
    path = tmp_path / "ledger.jsonl"
    fill(path, reply("one"), reply("two", error="HTTP 500"))
    fill(path, reply("two", attempt=2))
    with closing(Ledger(path, HEADER)) as ledger:
        assert [each.attempt for each in ledger] == [1, 1, 2]
        assert ledger.last("raw", "two") == reply("two", attempt=2)
        assert ledger.last("patch", "two") is None
        assert ledger.last("raw", "three") is None
    assert json.loads(path.read_text().splitlines()[0])["protocol"] == HEADER.protocol


@pytest.mark.parametrize("content", ["half \ud800".encode("utf-8", "replace").decode(), "line\u2028sep\u0085\n\r\n", "\x00"])
def test_any_text_survives(tmp_path: Path, content: str):
    path = tmp_path / "ledger.jsonl"
    fill(path, reply(content=content), reply("two"))
    with closing(Ledger(path, HEADER)) as ledger:
        assert ledger.last("raw", "q") == reply(content=content)
        assert len(ledger) == 2


@pytest.mark.parametrize("seconds", ["-0.5", "1e999", "NaN", '"0.5"', "true", "null"])
def test_seconds_that_cannot_be_are_a_damaged_line(tmp_path: Path, seconds: str):
    path = tmp_path / "ledger.jsonl"
    fill(path, reply())
    path.write_text(path.read_text().replace('"seconds": 0.5', f'"seconds": {seconds}'))
    with pytest.raises(InputError, match=r"ledger\.jsonl:2: damaged ledger line"):
        Ledger(path, HEADER)


def test_a_torn_last_line_is_dropped_wherever_it_tears(tmp_path: Path):
    path = tmp_path / "ledger.jsonl"
    fill(path, reply("one"), reply("two"))
    whole = path.read_bytes()
    second = whole.rstrip(b"\n").rfind(b"\n") + 1
    for length in range(second, len(whole)):
        path.write_bytes(whole[:length])
        with closing(Ledger(path, HEADER)) as ledger:
            assert ledger.last("raw", "one") is not None
            assert ledger.last("raw", "two") is None
            ledger.append(reply("two"))
        assert path.read_bytes() == whole


def test_a_torn_header_starts_anew(tmp_path: Path):
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b'{"ledger": "moe-rel')
    fill(path, reply("one"))
    with closing(Ledger(path, HEADER)) as ledger:
        assert len(ledger) == 1


@pytest.mark.parametrize("name", ["protocol", "model", "toolchain"])
def test_another_runs_ledger_is_refused_with_both_values(tmp_path: Path, name: str):
    path = tmp_path / "ledger.jsonl"
    fill(path, reply())
    before = path.read_bytes()
    with pytest.raises(CheckFailedError, match=rf"belongs to {name} {getattr(HEADER, name)}, the run to other"):
        Ledger(path, HEADER.model_copy(update={name: "other"}))
    assert path.read_bytes() == before


@pytest.mark.parametrize("line", [b"{}\n", b"nonsense\n", b'{"kind": "raw"}\n', b"[" * 100_000 + b"\n", b"\xff\n"])
def test_damage_before_the_last_line_is_refused(tmp_path: Path, line: bytes):
    path = tmp_path / "ledger.jsonl"
    fill(path, reply("one"))
    path.write_bytes(path.read_bytes() + line + b"more\n")
    with pytest.raises(InputError, match=r"ledger\.jsonl:3: damaged ledger line"):
        Ledger(path, HEADER)


def test_the_digest_is_of_what_was_said_and_not_of_the_clock():
    assert reply().digest() == reply(attempt=2).model_copy(update={"seconds": 9.0, "text": "x", "timings": {"a": 1}}).digest()
    for changes in ({"content": "B"}, {"finish_reason": "length"}, {"completion_tokens": 4}, {"reasoning_content": "x"}):
        assert reply().digest() != reply().model_copy(update=changes).digest()
