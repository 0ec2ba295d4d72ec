"""Outputs that somebody else's lm-eval wrote: read, recounted and classified, as far as they tell."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pruner.errors import CheckFailedError, InputError, first_problem
from pruner.files import digest_of, read_json
from release.documents import Document
from release.evaluation.evidence import Interval, interval
from release.evaluation.outcomes import breakdown, has_loop
from release.evaluation.protocol import Loop, OutcomeName, Protocol

LARGEST_LINE = 64 << 20
INVALID = "[invalid]"
"""What lm-eval's regex filters give when they find nothing."""
ROUNDING = 1e-9


class ForeignAnswer(Document):
    """One question of a foreign run, without its text: lm-eval's digests of question and prompt, and what became of it."""

    doc_hash: str
    prompt_hash: str
    outcome: OutcomeName
    looping: bool
    correct: bool


class LmEvalRun(Document):
    """A run of lm-eval.

    Its files do not say why a reply ended, so none counts as truncated; a request that failed left an empty reply, or no file.

    Attributes:
        settings: what of its configuration can move a score, by name.
        settings_digest: of them; two runs may be paired when it is the same.
        partial: a limit left questions out.
    """

    model: str
    settings: dict[str, Any]
    settings_digest: str
    partial: bool
    total: int
    correct: int
    interval: Interval
    outcomes: dict[OutcomeName, int]
    questions: tuple[ForeignAnswer, ...]


class _Sample(BaseModel):
    """The part of a line of samples_*.jsonl that counts; `model_extra` holds the metrics."""

    model_config = ConfigDict(extra="allow")
    resps: list[list[str]]
    filtered_resps: list[Any]
    filter: str
    metrics: list[str]
    doc_hash: str
    prompt_hash: str


def read_lm_eval_run(folder: Path, protocol: Protocol | None = None) -> LmEvalRun:
    """Read the output folder of one run of one task, as lm-eval wrote it with --log_samples; see `read_lm_eval_files`.

    Raises:
        InputError: the folder does not hold exactly one run, or a file is damaged.
        CheckFailedError: the score in the results does not follow from the samples.
    """
    results, samples = _one(folder, "results_*.json"), _one(folder, "samples_*.jsonl")
    return read_lm_eval_files(samples, results, protocol)


def read_lm_eval_files(samples_path: Path, results_path: Path, protocol: Protocol | None = None) -> LmEvalRun:
    """Read the two files of one run of one task.

    Args:
        samples_path: its samples_*.jsonl.
        results_path: its results_*.json.
        protocol: its metric and filter are taken where the run has them; else the run must have only one of each.  It also
            says what counts as a loop.

    Raises:
        InputError: a file is missing or damaged.
        CheckFailedError: the score in the results does not follow from the samples.
    """
    results = read_json(results_path, "results of lm-eval", LARGEST_LINE)
    samples = _read_samples(samples_path)
    task = _only(list(_mapping(results, "configs", results_path)), "tasks", results_path)
    wanted_filter, wanted_metric = (protocol.task.filter, protocol.task.metric) if protocol else (None, None)
    chosen = _only({each.filter for each in samples}, "filters", samples_path, wanted_filter)
    samples = [each for each in samples if each.filter == chosen]
    metric = _only({name for each in samples for name in each.metrics}, "metrics", samples_path, wanted_metric)
    loop = protocol.gates.loop if protocol else Loop()
    answers = tuple(_answer(each, metric, loop, samples_path) for each in samples)
    correct = sum(each.correct for each in answers)
    _check_score(results, task, f"{metric},{chosen}", correct / len(answers), results_path)
    model = str(results.get("model_name"))
    settings = _settings(results, task, metric, chosen, results_path)
    digest = _digest(results_path, model, settings)
    if len({each.doc_hash for each in answers}) != len(answers):
        raise InputError(f"{samples_path}: a question appears twice; its answers cannot be paired")
    counts = _mapping(results, "n-samples", results_path).get(task)
    return LmEvalRun(
        model=model,
        settings=settings,
        settings_digest=digest,
        partial=not isinstance(counts, dict) or counts.get("original") != len(answers),
        total=len(answers),
        correct=correct,
        interval=interval(correct, len(answers)),
        outcomes=breakdown(each.outcome for each in answers),
        questions=answers,
    )


def _one(folder: Path, pattern: str) -> Path:
    found = sorted(path for path in folder.rglob(pattern) if path.is_file())
    if len(found) != 1:
        raise InputError(
            f"{folder}: {len(found)} files {pattern}; give the output folder of one lm-eval run with --log_samples"
        )
    return found[0]


def _read_samples(path: Path) -> list[_Sample]:
    samples = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(iter(lambda: file.readline(LARGEST_LINE), ""), 1):
                samples.append(_sample(path, number, line))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    if not samples:
        raise InputError(f"{path}: holds no answers")
    return samples


def _sample(path: Path, number: int, line: str) -> _Sample:
    try:
        sample = _Sample.model_validate(json.loads(line))
        (sample.doc_hash + sample.prompt_hash).encode()  # half of a surrogate pair is no digest
    except ValidationError as error:
        raise InputError(f"{path}:{number}: no sample of lm-eval: {first_problem(error)}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}:{number}: not JSON; the file is damaged") from None
    return sample


def _only(names: Sequence[str] | set[str], what: str, path: Path, wanted: str | None = None) -> str:
    if wanted in names:
        return str(wanted)
    if len(names) != 1:
        raise InputError(
            f"{path}: has {what} {', '.join(sorted(names)) or 'none'}; name a protocol that chooses one: --protocol"
        )
    return next(iter(names))


def _mapping(results: Any, key: str, path: Path) -> dict[str, Any]:
    value = results.get(key) if isinstance(results, dict) else None
    if not isinstance(value, dict):
        raise InputError(f"{path}: no results of lm-eval: {key!r} is missing")
    return value


def _answer(sample: _Sample, metric: str, loop: Loop, path: Path) -> ForeignAnswer:
    value = (sample.model_extra or {}).get(metric)
    if value not in (0, 1):
        raise InputError(f"{path}: question {sample.doc_hash[:12]}: {metric} is {reprlib.repr(value)}, where 0 or 1 is needed")
    text = sample.resps[0][0] if sample.resps and sample.resps[0] else ""
    found = sample.filtered_resps[0] if sample.filtered_resps else None
    outcome: OutcomeName = "empty" if not text.strip() else "unparsable" if found in (INVALID, None, "") else "valid"
    return ForeignAnswer(
        doc_hash=sample.doc_hash,
        prompt_hash=sample.prompt_hash,
        outcome=outcome,
        looping=has_loop(text, loop),
        correct=bool(value),
    )


def _check_score(results: Any, task: str, name: str, share: float, path: Path) -> None:
    scores = _mapping(results, "results", path).get(task)
    told = scores.get(name) if isinstance(scores, dict) else None
    if not isinstance(told, (int, float)) or not -1 <= told <= 1 or abs(told - share) > ROUNDING:
        raise CheckFailedError(
            f"{path}: {name} is {reprlib.repr(told)}, the samples give {share:.6f}; the files are not of one run"
        )


def _digest(path: Path, model: str, settings: dict[str, Any]) -> str:
    """Of the settings; what no file of ours could hold is refused, also in the model's name."""
    if _depth(settings) > DEEPEST:
        raise InputError(f"{path}: settings are nested more than {DEEPEST} deep")
    try:
        model.encode()
        return digest_of(settings)
    except (ValueError, RecursionError):
        raise InputError(f"{path}: holds numbers or text that no JSON should (NaN, half a surrogate pair)") from None


DEEPEST = 50
"""Of foreign settings: what writes them down takes a level of the stack for each."""


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [inner for each in level for inner in _inside(each)]:
        depth += 1
    return depth


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _settings(results: Any, task: str, metric: str, chosen: str, path: Path) -> dict[str, Any]:
    """What can move a score; the model, its server and the clock are left out."""
    config = _mapping(results, "configs", path)[task]
    config = config if isinstance(config, dict) else {}
    run = _mapping(results, "config", path)
    top = ("lm_eval_version", "task_hashes", "system_instruction_sha", "fewshot_as_multiturn")
    seeds = ("random_seed", "numpy_seed", "torch_seed", "fewshot_seed")
    return {
        "task": task,
        "task_version": _mapping(results, "versions", path).get(task),
        "metric": metric,
        "filter": chosen,
        **{name: results.get(name) for name in top},
        **{name: run.get(name) for name in seeds},
        **{name: config.get(name) for name in ("num_fewshot", "generation_kwargs", "doc_to_text", "filter_list", "repeats")},
    }
