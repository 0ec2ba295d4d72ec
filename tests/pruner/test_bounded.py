"""A child with bounded memory and time: what it gives, what it refuses, and that nothing of the caller's folder runs in it."""

from __future__ import annotations

import operator
import os
import time
from pathlib import Path
from typing import Any

import pytest

from pruner.bounded import Limits, bounded, first_group
from pruner.errors import CheckFailedError, InputError, MoeReleaseError, UnavailableError

SMALL = Limits(memory=64 << 20, seconds=1, answer=1000)


def raises(kind: str) -> None:
    raise {"check": CheckFailedError, "input": InputError, "outside": UnavailableError}[kind]("what: is\nwrong")


def sleeper() -> int:
    time.sleep(1.5)
    return os.getpid()


def ends() -> None:
    os.abort()


def test_what_a_function_gives_comes_back() -> None:
    assert bounded("sorting", sorted, ["é", "\ud800", "a"]) == ["a", "é", "\ud800"]
    assert bounded("a pattern", first_group, r"\b([A-D])\b", "I say (C).") == "C"


@pytest.mark.parametrize(
    ("function", "words", "message"),
    [
        (operator.mul, ("a", 10**9), "it: takes more than 67,108,864 bytes of memory; it is refused"),
        (ends, (), "it: takes more than 67,108,864 bytes of memory; it is refused"),
        (pow, (10, 10**9), "it: takes more than 1 seconds of a processor; it is refused"),
        (first_group, ("(a+)+$", "a" * 40 + "b"), "it: takes more than 1 seconds of a processor; it is refused"),
        (operator.mul, ("a", 1000), "it: gives more than 1,000 bytes; it is refused"),
        (operator.mul, ({}, 2), "it: TypeError: unsupported operand type(s) for *: 'dict' and 'int'"),
    ],
)
def test_what_takes_too_much_is_refused(function: Any, words: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError) as caught:
        bounded("it", function, *words, limits=SMALL)
    assert str(caught.value) == message


@pytest.mark.parametrize(("kind", "error"), [("check", CheckFailedError), ("input", InputError), ("outside", UnavailableError)])
def test_errors_of_ours_stay_what_they_are(kind: str, error: type[MoeReleaseError]) -> None:
    with pytest.raises(error) as caught:
        bounded("it", raises, kind)
    assert (type(caught.value), str(caught.value)) == (error, "what: is\\nwrong")


def test_waiting_is_no_work() -> None:
    """The limit is of a processor: a busy machine, which lets a child wait, changes nothing."""
    assert bounded("it", sleeper, limits=SMALL) != os.getpid()


def test_nothing_of_the_folder_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "pickle", "pruner", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    assert bounded("it", operator.mul, 2, 3) == 6
    assert not (tmp_path / "ran").exists()


def test_no_secret_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert bounded("it", os.getenv, "HF_TOKEN") is None
    assert bounded("it", os.getenv, "PATH") == os.environ["PATH"]
