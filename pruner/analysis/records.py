"""One file per measured question, so that a killed analysis loses one question, and memory holds one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pruner.calibration import RenderedQuestion
from pruner.errors import CheckFailedError
from pruner.files import digest_of, write_atomic
from pruner.packed_sums import NAMES
from pruner.statistics import HEADER_KEY, ExpertStatistics, Header, QuestionSums, Sums, pins_digest

SUMS = NAMES
NUMBERS = ("tokens", "answer_tokens", "truncated")


@dataclass(frozen=True, eq=False)
class QuestionRecord:
    """The measurement of one question: sums [L, E], skipped tokens [L]."""

    all: Sums
    answer: Sums
    skipped: NDArray[np.int64]
    tokens: int
    answer_tokens: int
    truncated: int


@dataclass(frozen=True)
class Task:
    """A question that is to be measured."""

    record: Path
    """Where its record stands or will stand."""
    key: str
    """Digest of all that determines its numbers: a record with another key is measured again."""
    render: Callable[[], RenderedQuestion]
    """Its tokens, made when they are needed, so that those of all questions are never in memory together."""


def record_key(header: Header, question: RenderedQuestion) -> str:
    """Digest of all that determines a question's numbers: a record with another key is measured again."""
    return digest_of({"pins": pins_digest(header), "tokens": list(question.token_ids), "answer_start": question.answer_start})


def record_path(folder: Path, position: int, digest: str) -> Path:
    """Where the record of the question with `digest` at `position` of the calibration set stands."""
    return folder / f"{position:06d}-{digest[:16]}.safetensors"


def stacked_record(question: RenderedQuestion, layers: Sequence[tuple[Sums, Sums, int]]) -> QuestionRecord:
    """The record of a question from the sums [E] of each of its MoE layers; see `pruner.analysis.sums`."""

    def stacked(sums: list[Sums]) -> Sums:
        return Sums(**{name: np.stack([getattr(each, name) for each in sums]) for name in SUMS})

    return QuestionRecord(
        all=stacked([layer[0] for layer in layers]),
        answer=stacked([layer[1] for layer in layers]),
        skipped=np.asarray([layer[2] for layer in layers], dtype=np.int64),
        tokens=len(question.token_ids),
        answer_tokens=len(question.token_ids) - question.answer_start,
        truncated=int(question.truncated),
    )


def write_record(path: Path, key: str, record: QuestionRecord) -> None:
    """Write a record atomically."""
    arrays: dict[str, NDArray[Any]] = {name: np.asarray([getattr(record, name)], dtype=np.int64) for name in NUMBERS}
    arrays["skipped"] = record.skipped
    for scope, sums in (("all", record.all), ("answer", record.answer)):
        arrays |= {f"{scope}.{name}": getattr(sums, name) for name in SUMS}
    write_atomic(path, bytes(save({name: arrays[name] for name in sorted(arrays)}, metadata={HEADER_KEY: key})))


def read_record(path: Path, key: str) -> QuestionRecord | None:
    """The record at `path`, or None when there is none, or it was made under another key, or it is damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get(HEADER_KEY) != key:
                return None
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        everything, answer = (Sums(**{name: arrays[f"{scope}.{name}"] for name in SUMS}) for scope in ("all", "answer"))
        tokens, answer_tokens, truncated = (int(arrays[name][0]) for name in NUMBERS)
        return QuestionRecord(everything, answer, arrays["skipped"], tokens, answer_tokens, truncated)
    except (OSError, SafetensorError, TypeError, KeyError, IndexError):
        return None


def recorded(header: Header, tasks: Sequence[Task]) -> ExpertStatistics:
    """The statistics that consist of the records of `tasks`, in the order of the header's questions.

    Raises:
        CheckFailedError: a record is gone, now or when its sums are asked for.
    """

    def record(row: int) -> QuestionRecord:
        found = read_record(tasks[row].record, tasks[row].key)
        if found is None:
            raise CheckFailedError(f"{tasks[row].record}: the record was lost or changed meanwhile; run the analysis again")
        return found

    def question(row: int) -> QuestionSums:
        found = record(row)
        return QuestionSums(found.all, found.answer)

    numbers: dict[str, list[Any]] = {name: [] for name in (*NUMBERS, "skipped")}
    for row in range(len(tasks)):
        one = record(row)
        for name, values in numbers.items():
            values.append(getattr(one, name))
    arrays = {name: np.asarray(values, dtype=np.int64) for name, values in numbers.items()}
    return ExpertStatistics(header, **arrays, question=question)
