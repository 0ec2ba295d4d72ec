"""What a run left behind, and what of it still runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from release.evaluation.data import digest_of_questions
from release.evaluation.evidence import Evidence, totals

SAID = ("kind", "question", "prompt", "content", "reasoning_content", "finish_reason", "prompt_tokens", "completion_tokens")


def ledger_lines(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Replies in the order of their arrival, of one kind when it is given."""
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()[1:]]
    return [line for line in lines if kind in (None, line["kind"])]


def said(folder: Path, names: Sequence[str] = SAID) -> list[tuple[str, ...]]:
    """What two runs must have in common, whatever the order of arrival."""
    return sorted(tuple(str(line[name]) for name in names) for line in ledger_lines(folder))


def running_servers() -> list[psutil.Process]:
    """Our llama-servers that are alive."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # another thread has just seen its end
            if child.name() == "llama-server" and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for what another process or thread does; a test that hangs is ended by pytest."""
    while not holds():
        time.sleep(0.01)


def cherry_picked(evidence: Evidence) -> Evidence:
    """Evidence of the questions alone that were answered correctly; it adds up by itself."""
    right = tuple(each for each in evidence.questions if each.correct)
    digest = digest_of_questions([each.question_digest for each in right])
    changed = evidence.model_copy(update={"questions": right, "questions_digest": digest, **totals(right)})
    return Evidence.model_validate(changed.model_dump())
