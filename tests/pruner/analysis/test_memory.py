"""Memory does not grow with the number of questions, by which a whole pass of each kind is measured on two numbers."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from pruner.files import sha256_file
from pruner.ranking import CoverageRanking, Gates, check_gates
from pruner.selection import Selection, kept_experts
from pruner.stability import bootstrap, fold_weights
from pruner.statistics import merge, read_statistics, select, write_statistics

from .conftest import resident, resident_growth, row, write_rows
from .make import random_statistics

FEW, MANY = 16, 160
LAYERS, EXPERTS = 30, 128
ONE_QUESTION = LAYERS * EXPERTS * 5 * 2 * 8
"""Bytes of one question's ten sums in float64."""
SELECTION = Selection(CoverageRanking(protect=16), 109)


def peak(work: Callable[[], object]) -> int:
    """Most bytes that Python and numpy held at once during `work`."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def ranked(path: Path) -> None:
    statistics = read_statistics(path)
    check_gates(statistics, Gates(max_unrouted=1, max_truncated=1))
    kept_experts(statistics, SELECTION)
    for weights in fold_weights(statistics, 2):
        kept_experts(statistics, SELECTION, weights)


def drawn(path: Path) -> None:
    bootstrap(read_statistics(path), SELECTION, rounds=3)


def joined(path: Path) -> None:
    whole = read_statistics(path)
    rows = range(len(whole))
    parts = []
    for index in range(2):
        parts.append(path.with_name(f"{path.name}-{index}"))
        write_statistics(parts[-1], select(whole, rows[index::2]))
    write_statistics(path.with_name(f"{path.name}-joined"), merge([read_statistics(part) for part in parts]))
    assert sha256_file(path.with_name(f"{path.name}-joined")) == sha256_file(path)


@pytest.mark.parametrize("work", [ranked, drawn, joined])
def test_statistics_are_read_ranked_merged_and_written_question_by_question(work: Callable[[Path], None], tmp_path: Path):
    for questions in (FEW, MANY):
        write_statistics(tmp_path / str(questions), random_statistics(questions, LAYERS, EXPERTS))
    work(tmp_path / str(FEW))  # imports and caches
    few, many = (peak(lambda number=number: work(tmp_path / str(number))) for number in (FEW, MANY))  # type: ignore[misc]
    assert many - few < ONE_QUESTION, (few, many)
    assert many < (MANY - FEW) * ONE_QUESTION / 2, "the peak is too near to that of all questions: the test shows nothing"


LONG = " and so on" * 300
"""Three thousand tokens of bytes: what a forward pass of them leaves behind cannot be overlooked."""
ONE_PASS = 3000 * 32 * 4
"""Bytes of the hidden states of one such question before one of its layers."""


@resident
@pytest.mark.torch
@pytest.mark.parametrize("how", ["none", "layers"])
def test_measuring_keeps_texts_and_digests_alone(how: str, make_model: Callable[..., Path], tmp_path: Path):
    pytest.importorskip("torch", reason="needs the analysis extra")
    sources = {}
    for questions in (4, 44):
        rows = [row(number) | {"Explanation": f"{number}{LONG}"} for number in range(questions)]
        sources[questions] = write_rows(tmp_path / f"{questions}.jsonl", rows)
    analyses = [(make_model(), sources[questions]) for questions in (4, 4, 44)]
    measured = []
    for attempt in ("first", "second", "third"):  # what else the allocator holds only adds, and not each time
        measured.append(resident_growth(how, tmp_path / attempt, *analyses))
        assert len(list((tmp_path / attempt / "2").iterdir())) == 44
        if measured[-1] < 40 * ONE_PASS / 2:
            return
    pytest.fail(f"grew by {measured} bytes each time")
