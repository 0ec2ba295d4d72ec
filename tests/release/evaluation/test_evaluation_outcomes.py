"""Each reply falls into exactly one class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from release.evaluation.ledger import Reply
from release.evaluation.outcomes import OUTCOMES, breakdown, classify, has_loop, is_looping
from release.evaluation.protocol import Loop, NGrams, load_protocol

PARSER = '{"error": {"message": "The model produced output that does not match the expected peg-gemma4 format"}}'


def reply(**changes: Any) -> Reply:
    value = {"kind": "raw", "question": "q", "prompt": "p", "attempt": 1, "seed": 1, "status": 200, "error": None}
    said = {"content": "The answer is (A).", "finish_reason": "stop", "seconds": 1.0}
    return Reply.model_validate(value | said | changes)


@pytest.mark.parametrize(
    ("changes", "letter", "name", "cause"),
    [
        ({}, "A", "valid", None),
        ({"content": "who knows"}, None, "unparsable", "no answer"),
        ({"content": ""}, None, "empty", "no answer"),
        ({"content": " \n"}, None, "empty", "no answer"),
        ({"content": None}, None, "empty", "no answer"),
        ({"content": "", "reasoning_content": "The answer is (A)."}, None, "empty", "no answer"),
        ({"content": "", "finish_reason": "length"}, None, "truncated", "length"),
        ({"content": "(A) or (B)", "finish_reason": "length"}, "B", "truncated", "length"),
        ({"content": "", "reasoning_content": "re-" * 60, "finish_reason": "length"}, None, "truncated", "loop"),
        ({"content": "hm, " * 60}, None, "unparsable", "loop"),
        ({"status": 500, "error": "HTTP 500", "text": PARSER}, None, "failed", "parser"),
        ({"status": 503, "error": "HTTP 503", "text": "busy"}, None, "failed", "http"),
        ({"status": 200, "error": "malformed: not JSON", "text": "{"}, None, "failed", "malformed"),
        ({"status": None, "error": "time-out: no whole reply within 3 s"}, None, "failed", "time-out"),
        ({"status": None, "error": "connection: refused some time ago"}, None, "failed", "connection"),
    ],
)
def test_outcome_and_cause(changes: dict[str, Any], letter: str | None, name: str, cause: str | None):
    outcome = classify(reply(**changes), letter, Loop())
    assert (outcome.name, outcome.cause) == (name, cause)


@pytest.mark.parametrize(
    ("changes", "letter", "outcome"),
    [
        ({"content": ""}, None, ("empty", "budget")),
        ({"content": "so"}, None, ("unparsable", "budget")),
        ({"content": "", "completion_tokens": 15}, None, ("empty", "no answer")),
        ({"content": "", "reasoning_content": None}, None, ("empty", "no answer")),
        ({"content": "", "finish_reason": "length"}, None, ("truncated", "length")),
        ({}, "A", ("valid", None)),
    ],
)
def test_a_thought_that_used_up_its_budget_is_named(changes: dict[str, Any], letter: str | None, outcome: tuple[str, str]):
    found = classify(reply(**{"completion_tokens": 16, "reasoning_content": "hm"} | changes), letter, Loop(), budget=16)
    assert (found.name, found.cause) == outcome


@pytest.mark.parametrize(
    ("text", "looping"),
    [
        ("no " * 22, True),
        ("a" * 64, True),
        ("a" * 63, False),
        ("The shape of Fugir memam is oblate. " * 8, True),
        ("The shape of Fugir memam is oblate. " * 7, False),
        ("".join(f"{number} " for number in range(200)), False),
        ("", False),
    ],
)
def test_a_loop_is_a_repeated_end(text: str, looping: bool):
    assert is_looping(reply(content=text), Loop()) is looping
    assert is_looping(reply(content="", reasoning_content=text), Loop()) is looping


@pytest.mark.parametrize("content", ["The answer is (B).", ""])
def test_a_thought_that_loops_until_its_budget_closes_it_is_seen(content: str):
    """What follows the thought is no part of it."""
    thought = "Wait, let me check option B once more. " * 400
    assert is_looping(reply(content=content, reasoning_content=thought), Loop())
    assert is_looping(reply(content=thought, reasoning_content="Short."), Loop())


WORDS = Loop(ngrams=NGrams(length=3, words=256, share=0.5))
SOUND = " ".join(f"In step {number} we find {number * 7} apples, of which {number % 5} are eaten." for number in range(20))


@pytest.mark.parametrize(
    ("text", "seen_by_letter", "seen_by_word"),
    [
        ("".join(f"{number}. Wait, let me re-check option B. " for number in range(60)), False, True),
        ("Wait, let me check option B. " * 60 + "No, it is as I said: the colour is russet.", False, True),
        ("".join(f"For k = {number}: 2*{number}+3. " for number in range(200)), False, False),
        ("one two three four five six seven " * 8, True, False),
        (SOUND, False, False),
    ],
    ids=["numbered", "left again", "calculation", "short", "sound"],
)
def test_words_that_repeat_are_a_loop_where_the_protocol_counts_them(text: str, seen_by_letter: bool, seen_by_word: bool):
    assert has_loop(text, Loop()) is seen_by_letter
    assert has_loop(text, WORDS) is (seen_by_letter or seen_by_word)


def test_the_share_of_repeated_words_is_that_of_its_definition():
    text = "a b c a b c x y"  # 3-grams abc bca cab abc bcx cxy: one of six stood before
    assert has_loop(text, Loop(ngrams=NGrams(length=3, words=8, share=1 / 6)))
    assert not has_loop(text, Loop(ngrams=NGrams(length=3, words=8, share=0.17)))
    assert not has_loop(text, Loop(ngrams=NGrams(length=3, words=9, share=0.01))), "shorter than the window"
    assert has_loop("p q r s t " + text, Loop(ngrams=NGrams(length=3, words=8, share=1 / 6)))


def test_the_real_exams_count_words(manifests: Path):
    for name in ("gpqa-diamond-v1", "gpqa-diamond-card-v3"):
        assert load_protocol(manifests / "protocols" / f"{name}.yaml", manifests).gates.loop == WORDS


def test_the_breakdown_names_every_outcome():
    assert breakdown(["valid", "empty", "valid"]) == {"valid": 2, "empty": 1, "truncated": 0, "unparsable": 0, "failed": 0}
    assert tuple(breakdown([])) == OUTCOMES
