"""Locks and SHA256SUMS as anybody may have written them."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruner.errors import InputError
from pruner.sources import LocalSource
from release.lock import Lock, read_lock
from release.references import compare, comparison_table, read_reference
from tests.conftest import MANIFESTS, TINY_MODEL
from tests.hostile import FUZZ, NAMES, assert_read_or_refused, changed_bytes, changed_json

LOCK = json.loads((MANIFESTS / "tiny-gemma4-4e.lock.json").read_text())
LOCK.pop("digest", None)  # or nothing else of a changed lock would be looked at
LOCK["outputs"].setdefault("eval/Q6_K/timing.json", {"sha256": "0" * 64, "size": 1, "varies": True})
SUMS = "".join(f"{'0123456789abcdef' * 4}  {name}\n" for name in ("config.json", "model.safetensors"))


def compared(path: Path) -> None:
    reference = read_reference(path)
    comparison_table(compare(LocalSource(TINY_MODEL), reference, workers=1), "target", reference).encode()


@FUZZ
@given(data=st.data())
def test_a_lock(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "x.lock.json"
    path.write_bytes(data.draw(changed_json(LOCK)))
    assert_read_or_refused(lambda: read_lock(path), str(path), path.stat().st_size)
    assert_read_or_refused(lambda: compared(path), str(path), path.stat().st_size)
    assert_read_or_refused(lambda: written_again(path), str(path), path.stat().st_size)


def written_again(path: Path) -> None:
    lock = read_lock(path)
    assert isinstance(lock, Lock)
    lock.to_bytes()


@FUZZ
@given(path=st.sampled_from(sorted(LOCK["outputs"])), data=st.data())
def test_no_lock_exempts_anything_but_seconds(tmp_path: Path, path: str, data: st.DataObject) -> None:
    target = tmp_path / "x.lock.json"
    outputs = {**LOCK["outputs"], path: {**LOCK["outputs"][path], "varies": data.draw(st.sampled_from([True, 1, 1.0]))}}
    target.write_text(json.dumps({**LOCK, "outputs": outputs}))
    accepted = assert_read_or_refused(lambda: read_lock(target), str(target), target.stat().st_size)
    assert not accepted or path.endswith("/timing.json")


@FUZZ
@given(data=st.data(), name=st.sampled_from(NAMES))
def test_sums(tmp_path: Path, data: st.DataObject, name: str) -> None:
    path = tmp_path / "SHA256SUMS"
    text = SUMS.replace("config.json", data.draw(st.sampled_from([name, "config.json"])))
    path.write_bytes(data.draw(changed_bytes(text.encode("utf-8", "surrogatepass"))))
    assert_read_or_refused(lambda: compared(path), str(path), path.stat().st_size)


@pytest.mark.parametrize("value", ["NaN", "-Infinity", '"\\ud800"'])
def test_a_lock_with_what_no_file_of_ours_holds_is_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / "x.lock.json"
    lock = copy.deepcopy(LOCK)
    shard = next(name for name, file in lock["outputs"].items() if "tensors" in file)
    lock["outputs"][shard]["tensors"] = {"a": {"dtype": "VALUE"}}
    path.write_text(json.dumps(lock).replace('"VALUE"', value))
    with pytest.raises(InputError, match=r"half (a|of a) surrogate pair"):
        read_lock(path)
