"""What is said of files beside the shards: names and values of strangers are shown, not obeyed."""

from __future__ import annotations

from pruner.comparison.packaging import json_differences


def test_half_a_surrogate_pair_and_control_characters_are_shown() -> None:
    left, right = {"\ud800k": 1, "a": "x"}, {"a": "x\nGOOD everything"}
    found = list(json_differences(left, right))
    assert found == ["\\ud800k: 1 only in A", 'a: "x" in A, "x\\nGOOD everything" in B']
    assert all(each.isprintable() and each.encode() for each in found)
