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


DATE = "2026-05-17T13-46-45.522874"


def write_lm_eval_run(
    place: Path, answers: str, *, filters: tuple[str, ...] = ("none",), limit: int = 0, **changes: Any
) -> Path:
    """The output of an lm-eval run in the format of version 0.4: one sample a line for each question and filter.

    `answers` has one sign a question: + right, - wrong, 0 empty, ? no answer found, l a loop.
    """
    folder = place / "model"
    folder.mkdir(parents=True)
    lines = [json.dumps(sample(number, sign, each)) for number, sign in enumerate(answers) for each in filters]
    (folder / f"samples_exam_{DATE}.jsonl").write_text("".join(line + "\n" for line in lines))
    right = answers.count("+") / len(answers)
    results = {
        "results": {"exam": {"alias": "exam"} | {f"exact_match,{each}": right for each in filters}},
        "configs": {"exam": {"task": "exam", "generation_kwargs": {"temperature": 0.0}, "num_fewshot": 0}},
        "versions": {"exam": 1.0},
        "n-samples": {"exam": {"original": limit or len(answers), "effective": len(answers)}},
        "config": {"model": "local-chat-completions", "random_seed": 0, "limit": None},
        "model_name": place.name,
        "lm_eval_version": "0.4.11",
        "total_evaluation_time_seconds": 12.5,
    }
    (folder / f"results_{DATE}.json").write_text(json.dumps(results | changes))
    return place


def sample(place: int, sign: str, chosen: str) -> dict[str, Any]:
    """One line of it."""
    text = {"0": " \n", "l": "hm, " * 40}.get(sign, "Forty-two.")
    return {
        "doc_id": place,
        "doc": {"Question": f"What is {place}?"},
        "target": "42",
        "resps": [[text]],
        "filtered_resps": ["[invalid]" if sign in "?0" and chosen != "none" else text],
        "filter": chosen,
        "metrics": ["exact_match"],
        "doc_hash": f"doc {place}",
        "prompt_hash": f"prompt {place}",
        "exact_match": int(sign == "+"),
    }


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
