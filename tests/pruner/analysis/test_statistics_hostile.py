"""A file of expert statistics as anybody may have written it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pruner.statistics import HEADER_KEY, merge, read_statistics, statistics_bytes
from tests.hostile import FUZZ, assert_read_or_refused, changed_bytes, changed_json
from tests.pruner.analysis.make import random_statistics

FILE = statistics_bytes(random_statistics(questions=4, layers=2, experts=6))
LENGTH = struct.unpack("<Q", FILE[:8])[0]
HEADER = json.loads(FILE[8 : 8 + LENGTH])


def used(path: Path) -> None:
    """Read every question, join and write again, as `merge` does."""
    found = read_statistics(path)
    for each in found:
        assert each.all.count.shape == each.answer.count.shape
    statistics_bytes(merge([found]))


@FUZZ
@given(data=st.data())
def test_changed_bytes(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "statistics.safetensors"
    path.write_bytes(data.draw(changed_bytes(FILE)))
    assert_read_or_refused(lambda: used(path), str(path), path.stat().st_size)


@FUZZ
@given(data=st.data())
def test_a_changed_header_of_ours_in_a_sound_container(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "statistics.safetensors"
    ours = data.draw(changed_json(json.loads(HEADER["__metadata__"][HEADER_KEY]))).decode("utf-8", "replace")
    text = json.dumps(HEADER | {"__metadata__": {HEADER_KEY: ours}}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + FILE[8 + LENGTH :])
    assert_read_or_refused(lambda: used(path), str(path), path.stat().st_size)
