"""What long work prints where there is no terminal."""

from __future__ import annotations

import pytest

from release import console


def test_a_plain_line_says_how_much_is_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with console.ConsoleProgress() as progress, progress.task("measuring experts", 40) as advance:
        now = 105.0
        advance(5)
        now = 120.0
        advance(5)
    assert capsys.readouterr().err == "  measuring experts: 10 of 40 (25%), about 60 s left\n"


def test_what_was_there_already_says_nothing_of_the_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with console.ConsoleProgress() as progress, progress.task("measuring experts", 40) as advance:
        now = 100.5
        advance(20)  # of a run that was stopped
        now = 120.0
        advance(5)
    assert capsys.readouterr().err == "  measuring experts: 25 of 40 (62%), about 60 s left\n"
