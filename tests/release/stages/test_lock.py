"""What a build may not have in common with its lock: seconds, and nothing else."""

from __future__ import annotations

import pytest

from pruner.errors import CheckFailedError
from release.lock import Lock, LockedBase, LockedFile, LockedInputs
from release.stages.lock import _compare

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
