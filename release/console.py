"""What a person sees while the program works: rich progress on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from pruner.errors import printable
from pruner.progress import Advance, Unit

PLAIN_SECONDS = 10.0
"""How often a long task writes a line when the output is no terminal."""

THERE_SECONDS = 1.0
"""What is reported this soon was there already, from a run that was stopped, and says nothing of the speed."""


class ConsoleProgress:
    """Implements `pruner.progress.Progress`.  A context manager: bars disappear when it closes."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._bars: dict[Unit, RichProgress] = {}

    def __enter__(self) -> ConsoleProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for bars in self._bars.values():
            bars.stop()

    @contextmanager
    def task(self, title: str, total: int | None, unit: Unit = "items") -> Iterator[Advance]:
        """Show a bar on a terminal, or a line every ten seconds."""
        if not self._console.is_terminal:
            yield self._plain(title, total)
            return
        bars = self._progress(unit)
        task = bars.add_task(escape(title), total=total)
        try:
            yield lambda amount: bars.advance(task, amount)
        finally:
            bars.remove_task(task)
            if not bars.tasks:
                self._bars.pop(unit).stop()

    def note(self, text: str) -> None:
        """Print one line above the bars."""
        self._console.print(escape(printable(text)))

    def _progress(self, unit: Unit) -> RichProgress:
        if unit not in self._bars:
            for other in self._bars.values():  # rich allows one live display at a time
                other.stop()
            amount = DownloadColumn(binary_units=True) if unit == "bytes" else MofNCompleteColumn()
            columns = (TextColumn("  {task.description}"), BarColumn(), amount, TimeElapsedColumn(), TimeRemainingColumn())
            self._bars[unit] = RichProgress(*columns, console=self._console, transient=True)
            self._bars[unit].start()
        return self._bars[unit]

    def _plain(self, title: str, total: int | None) -> Advance:
        done = there = 0
        started = last = time.monotonic()

        def advance(amount: int) -> None:
            nonlocal done, last, there
            done += amount
            if time.monotonic() - started < THERE_SECONDS:
                there = done
            if time.monotonic() - last > PLAIN_SECONDS:
                last = time.monotonic()
                left = (last - started) / max(done - there, 1) * (total - done) if total else 0.0
                share = f" of {total:,} ({done / total:.0%}), about {left:,.0f} s left" if total else ""
                self._console.print(f"  {escape(title)}: {done:,}{share}")

        return advance
