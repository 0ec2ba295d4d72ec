from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruner.errors import CheckFailedError, InputError
from pruner.files import sha256_bytes
from release.records import changed_output, make_record, own_work_folder, read_made, read_record, record_path, write_record
from tests.hostile import FUZZ, assert_read_or_refused, changed_json


def test_outputs_hold_until_their_bytes_change(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target = tmp_path / "folder" / "x"
    target.write_text("abc")
    write_record(tmp_path, make_record(tmp_path, "prune", "fp", [tmp_path / "folder"], 1.5))
    record = read_record(tmp_path, "prune")
    assert record is not None
    assert list(record.outputs) == ["folder/x"]
    assert changed_output(tmp_path, record) is None
    os.utime(target, (1, 1))
    assert changed_output(tmp_path, record) is None, "a new time stamp alone changes nothing"
    target.write_text("abd")
    assert changed_output(tmp_path, record) == "folder/x"
    target.unlink()
    assert changed_output(tmp_path, record) == "folder/x"


def test_what_a_stage_digested_itself_is_not_read_again(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).write_text(name)
    record = make_record(tmp_path, "prune", "fp", [tmp_path / "x", tmp_path / "y"], 0.0, {"x": "known", "z": "other"})
    assert record.digests() == {"x": "known", "y": sha256_bytes(b"y")}


def test_a_missing_or_torn_record_is_no_record(tmp_path: Path) -> None:
    assert read_record(tmp_path, "prune") is None
    (tmp_path / "records").mkdir()
    for text in ("", "{", "{}", "[]", '{"stage": "prune"}'):
        (tmp_path / "records" / "prune.json").write_text(text)
        assert read_record(tmp_path, "prune") is None


def test_the_digest_of_a_record_follows_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("abc")
    first = make_record(tmp_path, "a", "1", [tmp_path / "x"], 0.0)
    assert make_record(tmp_path, "b", "2", [tmp_path / "x"], 9.0).digest == first.digest
    (tmp_path / "x").write_text("abd")
    assert make_record(tmp_path, "a", "1", [tmp_path / "x"], 0.0).digest != first.digest


@FUZZ
@given(data=st.data())
def test_a_damaged_record_is_none_or_one(tmp_path: Path, data: st.DataObject) -> None:
    (tmp_path / "x").write_text("abc")
    write_record(tmp_path, make_record(tmp_path, "prune", "fp", [tmp_path / "x"], 1.5))
    path = record_path(tmp_path, "prune")
    path.write_bytes(data.draw(changed_json(json.loads(path.read_text()))))

    def used() -> None:
        record = read_record(tmp_path, "prune")
        if record is not None:
            assert len(record.digest) == 64
            changed_output(tmp_path, record)

    assert_read_or_refused(used, "", path.stat().st_size)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"org/a": 1}', '{"org/a": "x", "org/a": "y"}', "[" * 100_000])
def test_a_damaged_file_of_the_work_folder_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "published.json").write_text(content)
    with pytest.raises(CheckFailedError, match=r"published\.json: is damaged or gone; delete it"):
        read_made(tmp_path / "published.json", dict[str, str])
    (tmp_path / "published.json").write_text('{"org/a": "x"}')
    assert read_made(tmp_path / "published.json", dict[str, str]) == {"org/a": "x"}


def test_temporary_files_of_a_killed_run_are_removed_when_the_next_takes_the_folder(tmp_path: Path) -> None:
    with own_work_folder(tmp_path / "work", "v"):
        pass
    left = [".ranking_report.json.ljmhjlg5.tmp", "analysis/.00017.safetensors.k_3abcd9.tmp"]
    kept = ["notes.tmp", ".weights.partial/.moe-release-build", ".weights.partial/model-00001-of-00002.safetensors"]
    for name in (*left, *kept):
        (tmp_path / "work" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "work" / name).write_text("x")
    with own_work_folder(tmp_path / "work", "v"):
        assert [name for name in left if (tmp_path / "work" / name).exists()] == []
        assert [name for name in kept if (tmp_path / "work" / name).exists()] == kept


def test_a_folder_whose_first_run_was_killed_at_once_is_used(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / ".moe-release").touch()
    with own_work_folder(tmp_path / "work", "v"):
        pass
    with pytest.raises(InputError, match="holds the release v"), own_work_folder(tmp_path / "work", "other"):
        pass
