"""The analysis of a calibration set: one teacher-forced forward pass per question.

Each question, its correct reasoning and its answer go through the full base in one forward pass.  At every MoE layer, for every
token and each of its experts, n = ‖routing weight · expert output‖₂ is taken, reduced in float32, and summed over the tokens in
float64 in the order of the tokens.

Each worker runs on one thread of torch, because sums that are split over threads end in other bits: so the number of workers
changes the time and nothing else.  Of each question memory holds its text, its prompt and digests; tokens and sums come and go.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from pruner.analysis.finished import Finished
from pruner.analysis.layers import LayeredModel, open_layers, require_separable
from pruner.analysis.model import (
    MeasuredModel,
    base_digest,
    library_versions,
    load_measured,
    load_tokenizer,
    require_libraries,
    tokenizer_digest,
)
from pruner.analysis.offload import hidden_bytes, measure_by_layers, state_path
from pruner.analysis.outline import Outline, outline
from pruner.analysis.records import (
    QuestionRecord,
    Task,
    read_record,
    record_key,
    record_path,
    recorded,
    stacked_record,
    write_record,
)
from pruner.analysis.sums import layer_sums
from pruner.calibration import (
    CalibrationSet,
    Question,
    RenderedQuestion,
    Unusable,
    default_reply_format,
    prompts_of,
    render,
    template_of,
    without_special_tokens,
)
from pruner.errors import InputError, UnavailableError
from pruner.files import require_space, sha256_bytes
from pruner.packed_sums import MOST_TOKENS
from pruner.progress import SILENT, Advance, Progress
from pruner.statistics import ExpertStatistics, Header
from pruner.template_date import template_date


def analyze(
    model_folder: Path,
    questions: CalibrationSet,
    *,
    records: Path,
    finished: Finished | None = None,
    max_tokens: int = 4096,
    dtype: str = "auto",
    device: str = "cpu",
    reply_format: str | None = None,
    unusable: Unusable = "refuse",
    workers: int = 1,
    base: str | None = None,
    shard: tuple[int, int] = (0, 1),
    offload: bool = False,
    memory: int | None = None,
    progress: Progress = SILENT,
) -> ExpertStatistics:
    """Measure what every expert contributes to the correct answers of a calibration set.

    Args:
        model_folder: the base.
        questions: what `read_calibration` returned.
        records: folder for one record per question; questions that have one are not measured again.  The result reads its
            sums from there.
        finished: statistics that are taken as they are when they are what this analysis would measure.
        max_tokens: longer sequences lose their end, and are counted.
        dtype: of the weights and activations; `auto` is the checkpoint's own.
        device: where the forward passes run.
        reply_format: see `pruner.calibration.render`.
        unusable: what becomes of questions that hold a special token of the base's tokenizer.
        workers: questions that are measured side by side.
        base: digest of the base if it is known already (`base_digest` reads the whole base).
        shard: (i, n): only every n-th question from the i-th on; `pruner.statistics.merge` joins the shards.
        offload: for a base larger than memory: read one decoder layer at a time, run all questions through it, and keep their
            hidden states beside the records until they are through.  The numbers are the same.
        memory: bytes that are free; a base that is larger is said to be, before it is loaded.
        progress: shows the questions.

    Raises:
        UnavailableError: torch or transformers is not installed, or the device or the space for hidden states is not there.
        InputError: the base, the tokenizer, the shard, a question or what was measured before cannot be used.
    """
    require_libraries()
    _require_device(device)
    if offload:
        require_separable(model_folder)
    renderer = _Renderer(model_folder, reply_format, max_tokens)
    if unusable == "skip":
        questions = without_special_tokens(renderer.tokenizer, questions)
    _check(shard, max_tokens, len(questions), workers)
    positions = range(shard[0], len(questions), shard[1])
    chosen = [questions.questions[place] for place in positions]
    # What cannot be rendered is found before the base is loaded.
    rendered = [partial(renderer, *each) for each in zip(chosen, prompts_of(renderer.tokenizer, chosen), strict=True)]
    lengths = [len(each().token_ids) for each in rendered]
    found = outline(model_folder, dtype=dtype)
    header = _header(found.measured, model_folder, questions, positions, renderer, base=base, device=device)
    if finished is not None and (taken := finished.taken(header, progress)) is not None:
        return taken
    tasks = _tasks(header, rendered, records)
    waiting = {task: length for task, length in zip(tasks, lengths, strict=True) if read_record(task.record, task.key) is None}
    if waiting:
        _require_room(found, waiting, records, memory, offload=offload, progress=progress)
        load = partial(open_layers, found=found) if offload else partial(load_measured, dtype=found.dtype)
        _measure(load(model_folder, device=device), tasks, workers, progress)
    return recorded(header, tasks)


def _require_room(
    found: Outline, waiting: Mapping[Task, int], records: Path, memory: int | None, *, offload: bool, progress: Progress
) -> None:
    """Disk for the hidden states of the questions that wait, by their lengths, or memory for the whole base.

    What a killed run left of these states is used or overwritten: it needs no more space.

    Raises:
        UnavailableError: the disk is too full.
    """
    if offload:
        left = sum(path.stat().st_size for path in map(state_path, waiting) if path.exists())
        needed = hidden_bytes(found, list(waiting.values())) - left
        require_space(records, max(needed, 0), "the hidden states of the questions between two layers")
    elif memory is not None and (needed := found.size) > memory:
        progress.note(f"the base takes {needed:,} bytes of memory and {memory:,} are free; --offload layers needs one layer's")


def _header(
    measured: MeasuredModel,
    folder: Path,
    questions: CalibrationSet,
    positions: Sequence[int],
    renderer: _Renderer,
    *,
    base: str | None,
    device: str,
) -> Header:
    return Header(
        base=base or base_digest(folder),
        model_type=measured.model_type,
        tokenizer=tokenizer_digest(folder),
        template=sha256_bytes(renderer.template.encode()),
        template_date=template_date(renderer.template),
        reply_format=sha256_bytes(renderer.form.encode()),
        dataset=questions.digest,
        dataset_size=len(questions),
        left_out=questions.left_out,
        unusable=questions.unusable,
        answer_alone=sum(not question.reasoning for question in questions),
        questions=tuple(questions.questions[place].digest for place in positions),
        positions=tuple(positions),
        layers=measured.layers,
        experts=measured.experts,
        top_k=measured.top_k,
        max_tokens=renderer.max_tokens,
        dtype=measured.dtype,
        attention=measured.attention,
        device=device.partition(":")[0],
        libraries=library_versions(),
    )


class _Renderer:
    """Turns a question into tokens, one at a time: a tokenizer may not be used by several threads."""

    def __init__(self, folder: Path, reply_format: str | None, max_tokens: int) -> None:
        self.tokenizer = load_tokenizer(folder)
        self.max_tokens = max_tokens
        self._lock = Lock()
        self.template = template_of(self.tokenizer)
        self.form = default_reply_format(self.template) if reply_format is None else reply_format

    def __call__(self, question: Question, prompt: str) -> RenderedQuestion:
        with self._lock:
            return render(self.tokenizer, question, prompt, reply_format=self.form, max_tokens=self.max_tokens)


def _tasks(header: Header, rendered: Sequence[Callable[[], RenderedQuestion]], records: Path) -> list[Task]:
    def task(place: int, digest: str, render_it: Callable[[], RenderedQuestion]) -> Task:
        return Task(record_path(records, place, digest), record_key(header, render_it()), render_it)

    return [task(*each) for each in zip(header.positions, header.questions, rendered, strict=True)]


def _measure(model: LayeredModel | MeasuredModel, tasks: Sequence[Task], workers: int, progress: Progress) -> None:
    """Write the records that are missing."""
    with _one_thread_each(workers) as pool:
        if isinstance(model, LayeredModel):
            measure_by_layers(model, tasks, pool=pool, progress=progress)
        else:
            with progress.task("measuring experts", len(tasks)) as advance:
                _measure_all(model, tasks, pool, advance)


@contextmanager
def _one_thread_each(workers: int) -> Iterator[Executor]:
    """Threads for questions, each with one thread of torch; torch's own number is restored at the end."""
    import torch

    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(max_workers=workers)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _measure_all(measured: MeasuredModel, tasks: Sequence[Task], pool: Executor, advance: Advance) -> None:
    """Write the records of all questions that have none; the first error stops the rest."""
    import torch

    def work(task: Task) -> None:
        torch.set_num_threads(1)
        if read_record(task.record, task.key) is None:
            write_record(task.record, task.key, measure_question(measured, task.render()))
        advance(1)

    for _ in pool.map(work, tasks):
        pass


def _check(shard: tuple[int, int], max_tokens: int, questions: int, workers: int) -> None:
    index, count = shard
    if not 0 <= index < count <= questions:
        raise InputError(f"shard {index}/{count}: the first number must be 0 to n-1, and n at most the {questions} questions")
    if not 1 <= max_tokens <= MOST_TOKENS:
        raise InputError(f"max_tokens {max_tokens}: must be 1 to {MOST_TOKENS}")
    if workers < 1:
        raise InputError(f"workers {workers}: must be at least 1")


def _require_device(device: str) -> None:
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UnavailableError(f"device {device}: cannot be used here: {' '.join(str(error).split())[:200]}") from None


def measure_question(measured: MeasuredModel, question: RenderedQuestion) -> QuestionRecord:
    """Run one question through the base and sum what its experts did."""
    forward(measured.model, question)
    layers = [layer_sums(recorder, question.answer_start, measured.experts) for recorder in measured.recorders]
    return stacked_record(question, layers)


def forward(model: Any, question: RenderedQuestion) -> Any:
    """One forward pass without a cache; only the last token's logits are computed where the model can be asked for that."""
    import torch

    few = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    token_ids = torch.tensor([question.token_ids], device=model.device)
    with torch.inference_mode():
        return model(input_ids=token_ids, use_cache=False, **few)
