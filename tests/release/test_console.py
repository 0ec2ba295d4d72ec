"""What long work prints: lines where there is no terminal, bars on one."""

from __future__ import annotations

import os
import pty
import sys
import threading
from collections.abc import Callable

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


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, work: Callable[[console.ConsoleProgress], None]) -> str:
    """What a terminal of 100 columns is sent."""
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    ours, theirs = pty.openpty()
    sent: list[bytes] = []

    def read() -> None:
        try:
            while block := os.read(ours, 1 << 16):
                sent.append(block)
        except OSError:  # how Linux says that the other end is closed
            return

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(theirs, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        with console.ConsoleProgress() as progress:
            work(progress)
    reader.join()
    os.close(ours)
    return b"".join(sent).decode()


def test_bars_within_bars_and_lines_above_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(progress: console.ConsoleProgress) -> None:
        with progress.task("digesting [1/2]", 4 << 20, "bytes") as advance:
            advance(1 << 20)
            progress.note("a shard is [bold]done[/bold] \x1b[31m")
            with progress.task("measuring", 8) as count, progress.task("asking", None) as unknown:
                count(2)
                unknown(1)
            advance(3 << 20)
        with progress.task("digesting again", 1 << 20, "bytes") as advance:
            advance(1 << 20)
        progress.note("the end")

    said = on_a_terminal(monkeypatch, work)
    for words in ("digesting [1/2]", "measuring", "asking", "digesting again", "MiB"):
        assert words in said
    assert "a shard is [bold]done[/bold] \\x1b[31m" in said, "foreign words are shown, not obeyed"
    assert said.rstrip().endswith("the end")


def test_an_error_in_a_bar_leaves_a_usable_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(progress: console.ConsoleProgress) -> None:
        with pytest.raises(ValueError, match="no"), progress.task("digesting", 10, "bytes"):
            raise ValueError("no")
        progress.note("told below")

    said = on_a_terminal(monkeypatch, work)
    assert said.count("\x1b[?25l") == said.count("\x1b[?25h") > 0, "the cursor is shown again"
    assert said.rstrip().endswith("told below")
