"""What a build may not have in common with its lock: seconds, and nothing else."""

from __future__ import annotations

import pytest

from pruner.errors import CheckFailedError
from release.lock import Lock, LockedBase, LockedFile, LockedInputs
from release.stages.lock import _compare, in_its_words

TIMING = "eval/Q6_K/timing.json"


def lock(shard: str = "a", seconds: str | None = "b") -> Lock:
    outputs = {"weights/model.safetensors": LockedFile(sha256=shard, size=1)}
    if seconds:
        outputs[TIMING] = LockedFile(sha256=seconds, size=1, varies=True)
    return Lock(name="x", inputs=LockedInputs(base=LockedBase(name="base", files={})), outputs=outputs)


def test_other_seconds_are_no_difference_and_are_not_called_equal() -> None:
    assert _compare(lock(), lock(seconds="c"), everything=True) == "the 1 output equal; 1 with seconds, which vary"
    assert _compare(lock(seconds=None), lock(seconds=None), everything=True) == "the 1 output equal"


@pytest.mark.parametrize(
    ("locked", "found", "words"),
    [
        (lock(), lock(seconds=None), r"eval/Q6_K/timing\.json \(missing\)"),
        (lock(seconds=None), lock(), r"eval/Q6_K/timing\.json \(new\)"),
        (lock(), lock(shard="c", seconds="c"), r"1 output differs from the lock: weights/model\.safetensors \(changed\)"),
    ],
)
def test_missing_and_unexpected_seconds_and_another_shard_are(locked: Lock, found: Lock, words: str) -> None:
    with pytest.raises(CheckFailedError, match=words):
        _compare(locked, found, everything=True)


def told(**changes: object) -> Lock:
    """A lock that says more: how the base was read, and what made an output."""
    base = LockedFile(sha256="e", size=9, listed=True)
    outputs = {
        "weights/model.safetensors": LockedFile(sha256="a", size=1),
        "gguf/x.gguf": LockedFile(sha256="d", size=1, made_with={"processor": "one"}),
        TIMING: LockedFile(sha256="b", size=1, varies=True),
    }
    inputs = LockedInputs(base=LockedBase(name="base", files={"config.json": base}), tools={"moe-release": "0.1.0"})
    return Lock(name="x", inputs=inputs, outputs=outputs).model_copy(update=changes)


def with_output(lock: Lock, path: str, **changes: object) -> Lock:
    return lock.model_copy(update={"outputs": {**lock.outputs, path: lock.outputs[path].model_copy(update=changes)}})


def test_equal_bytes_from_elsewhere_keep_the_words_of_the_lock_but_for_the_seconds() -> None:
    base = LockedBase(name="base", files={"config.json": LockedFile(sha256="e", size=9)})
    elsewhere = told(inputs=LockedInputs(base=base, tools={"moe-release": "0.2.0"}))
    elsewhere = with_output(elsewhere, "gguf/x.gguf", made_with={"processor": "another"})
    elsewhere = with_output(elsewhere, TIMING, sha256="c", size=2)
    assert in_its_words(told(), elsewhere) == with_output(told(), TIMING, sha256="c", size=2)


@pytest.mark.parametrize(
    "found",
    [
        with_output(told(), "gguf/x.gguf", sha256="f"),
        with_output(told(), "weights/model.safetensors", size=2),
        with_output(told(), "gguf/x.gguf", tensor_data="t"),
        told(outputs={}),
        told(name="y"),
        told(inputs=LockedInputs(base=LockedBase(name="other", files=told().inputs.base.files))),
        told(inputs=LockedInputs(base=told().inputs.base, drop_map={"0": [1]})),
    ],
)
def test_any_other_difference_makes_a_lock_of_its_own(found: Lock) -> None:
    found = with_output(found, "gguf/x.gguf", made_with={"processor": "another"}) if found.outputs else found
    assert in_its_words(told(), found) == found
