"""Calibration sets and expert statistics as anybody may have written them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pruner.calibration import GPQA_FIELDS, FieldMap, read_calibration, read_classes, read_digests
from tests.hostile import FUZZ, NAMES, assert_read_or_refused, changed_bytes, changed_json

LISTED = FieldMap(question="q", choices="options", reasoning="why", answer="a", answer_as="index")
LISTED_ROW = {"q": "text", "options": ["one", "two"], "why": "so", "a": 1}
ROW = {name: f"text {number}" for number, name in enumerate((*GPQA_FIELDS.choices, "Question", "Explanation", "Domain"))}


def read_all(path: Path) -> None:
    read_calibration(path, without_reasoning="skip", unusable="skip")
    read_digests(path, GPQA_FIELDS)
    read_classes(path, GPQA_FIELDS, "Domain")


@FUZZ
@given(data=st.data())
def test_json_lines(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_bytes(json.dumps(ROW | {"Question": "another"}).encode() + b"\n" + data.draw(changed_json(ROW)) + b"\n")
    assert_read_or_refused(lambda: read_all(path), str(path), path.stat().st_size)


@FUZZ
@given(data=st.data(), answer_as=st.sampled_from(["index", "letter"]))
def test_lists_of_choices(tmp_path: Path, data: st.DataObject, answer_as: str) -> None:
    path, fields = tmp_path / "questions.jsonl", LISTED.model_copy(update={"answer_as": answer_as})
    path.write_bytes(data.draw(changed_json(LISTED_ROW)) + b"\n")
    assert_read_or_refused(lambda: read_calibration(path, fields, unusable="skip"), str(path), path.stat().st_size)


@FUZZ
@given(data=st.data())
def test_csv(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "questions.csv"
    output = io.StringIO(newline="")
    writer = csv.DictWriter(output, list(ROW))
    writer.writeheader()
    writer.writerows([ROW, {name: data.draw(st.sampled_from([*NAMES, *ROW.values()])) for name in ROW}])
    path.write_bytes(data.draw(changed_bytes(output.getvalue().encode("utf-8", "surrogatepass"))))
    assert_read_or_refused(lambda: read_all(path), str(path), path.stat().st_size)
