"""Measuring a base layer by layer: every weight is read once, and hidden states wait on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruner.analysis.layers import LayeredModel
from pruner.analysis.outline import Outline
from pruner.analysis.records import SUMS, Task, read_record, stacked_record, write_record
from pruner.analysis.sums import layer_sums
from pruner.files import write_atomic
from pruner.progress import Progress
from pruner.statistics import HEADER_KEY, Sums

if TYPE_CHECKING:
    import torch

FLOAT64 = 8

LayerSums = tuple[Sums, Sums, int]
"""Sums [E] over all tokens and over the reply's, and the number of skipped tokens."""


@dataclass(frozen=True, eq=False)
class HalfMeasured:
    """A question that has gone through the first `done` layers."""

    done: int
    hidden: torch.Tensor
    """[1, T, H]: hidden states before layer `done`."""
    sums: tuple[LayerSums, ...]
    """Of each MoE layer below `done`."""


def state_path(task: Task) -> Path:
    """Where the hidden states wait; removed when the question is measured."""
    return task.record.with_suffix(".hidden")


def hidden_bytes(found: Outline, lengths: Sequence[int]) -> int:
    """Most bytes on disk between two layers, for sequences of these lengths: hidden states, and sums of the layers behind."""
    measured = found.measured
    hidden = int(measured.model.config.get_text_config().hidden_size)
    sums = 2 * len(SUMS) * len(measured.layers) * measured.experts * FLOAT64
    return sum(lengths) * hidden * int(found.dtype.itemsize) + len(lengths) * sums


def measure_by_layers(model: LayeredModel, tasks: Sequence[Task], *, pool: Executor, progress: Progress) -> None:
    """Write the records of all questions, equal to those of the whole model.

    All questions go through one layer before the next one is read.  After each layer the question's hidden states and sums are
    written, so that a killed analysis loses one layer of as many questions as were running.

    Args:
        model: from `open_layers`.
        tasks: the questions; those that have a record are left alone.
        pool: runs questions side by side; each on one thread of torch.
        progress: counts layers of questions.

    Raises:
        InputError: a shard is damaged.
    """
    waiting = [task for task in tasks if read_record(task.record, task.key) is None]
    done = dict(zip((task.record for task in waiting), pool.map(_done, waiting), strict=True))
    steps = [None, *range(len(model.layers))]  # the embedding, then the layers
    total = len(waiting) * len(steps)
    with progress.task("measuring experts, layer by layer", total) as advance:
        advance(sum(done.values()))
        for number, layer in enumerate(steps):
            turn = [task for task in waiting if done[task.record] <= number]
            if turn:
                with model.loaded(layer):
                    _all(pool, _step(model, layer), turn, advance)
    for task in waiting:
        _finish(task)


def _all(pool: Executor, work: Callable[[Task], None], tasks: Sequence[Task], advance: Callable[[int], None]) -> None:
    """Run `work` for all tasks; the first error stops those that have not begun."""
    running = [pool.submit(work, task) for task in tasks]
    try:
        for each in running:
            each.result()
            advance(1)
    finally:
        for each in running:
            each.cancel()


def _step(model: LayeredModel, layer: int | None) -> Callable[[Task], None]:
    """What one step does for one question: embed it, or run it through a layer."""
    import torch

    def embed(task: Task) -> None:
        torch.set_num_threads(1)
        _write(task, HalfMeasured(0, model.embed(task.render().token_ids), ()))

    def run(task: Task) -> None:
        torch.set_num_threads(1)
        before = _read(task)
        assert before is not None  # noqa: S101  # it was written by the step before
        assert layer is not None  # noqa: S101
        question = task.render()
        hidden = model.run(layer, question.token_ids, before.hidden)
        sums = before.sums
        if layer in model.measured.layers:
            recorder = model.measured.recorders[model.measured.layers.index(layer)]
            sums = (*sums, layer_sums(recorder, question.answer_start, model.measured.experts))
        _write(task, HalfMeasured(layer + 1, hidden, sums))

    return embed if layer is None else run


def _done(task: Task) -> int:
    """Steps that a question has behind it."""
    found = _read(task)
    return 0 if found is None else found.done + 1


def _finish(task: Task) -> None:
    """Turn what waited on disk into the question's record."""
    last = _read(task)
    assert last is not None  # noqa: S101  # every layer has been run
    write_record(task.record, task.key, stacked_record(task.render(), last.sums))
    state_path(task).unlink()


def _write(task: Task, state: HalfMeasured) -> None:
    import torch
    from safetensors.torch import save

    arrays: dict[str, Any] = {"hidden": state.hidden.contiguous()}
    for place, (everything, answer, skipped) in enumerate(state.sums):
        for scope, sums in (("all", everything), ("answer", answer)):
            arrays |= {f"{place}.{scope}.{name}": torch.from_numpy(getattr(sums, name)) for name in SUMS}
        arrays[f"{place}.skipped"] = torch.tensor([skipped])
    write_atomic(state_path(task), bytes(save(arrays, metadata={HEADER_KEY: f"{task.key} {state.done} {len(state.sums)}"})))


def _read(task: Task) -> HalfMeasured | None:
    """What waits on disk, or None when there is nothing, or it was made under another key, or it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(state_path(task), "pt") as file:
            key, done, places = (file.metadata() or {}).get(HEADER_KEY, "").split(" ")
            if key != task.key:
                return None
            sums = tuple(_sums(file, place) for place in range(int(places)))
            return HalfMeasured(int(done), file.get_tensor("hidden").clone(), sums)
    except (OSError, ValueError, SafetensorError):
        return None


def _sums(file: Any, place: int) -> LayerSums:
    everything, answer = (
        Sums(**{name: file.get_tensor(f"{place}.{scope}.{name}").numpy().copy() for name in SUMS})
        for scope in ("all", "answer")
    )
    return everything, answer, int(file.get_tensor(f"{place}.skipped")[0])
