"""A release is this list of stages, run in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from pruner.errors import InputError, MoeReleaseError
from pruner.files import digest_of
from release import __version__
from release.context import Context, Options
from release.records import Record, changed_output, digested_outputs, make_record, own_work_folder, read_record, write_record
from release.stages import (
    analyze,
    calibrate,
    card,
    convert,
    evaluate,
    lock,
    preflight,
    prune,
    publish,
    quality,
    quantize,
    rank,
    read_back,
    report,
    resolve,
    verify,
)
from release.stages.stage import Stage

STAGES: tuple[Stage, ...] = (
    preflight.STAGE,  # tools, credentials, space and names, before time is spent
    resolve.STAGE,  # the base at its commit, digests of every input
    analyze.STAGE,  # teacher-forced expert statistics
    rank.STAGE,  # statistics to drop map
    prune.STAGE,  # the base's bytes, selected
    verify.STAGE,  # digests against the lock and prior builds
    convert.STAGE,  # safetensors to GGUF
    calibrate.STAGE,  # the importance matrix
    quantize.STAGE,  # one GGUF per quant
    quality.STAGE,  # how far each quant is from the unquantized model
    evaluate.STAGE,  # the locked exam, with its patch pass
    card.STAGE,  # model cards and results table
    report.STAGE,  # one page for the person who decides
    lock.STAGE,  # digests of everything made, against the lock beside the manifest
    publish.STAGE,  # one commit per repository
    read_back.STAGE,  # every digest from the Hub, and an answer from the published quant
)

Status = Literal["done", "up to date", "skipped"]


@dataclass(frozen=True)
class StageResult:
    """How a stage ended; `detail` is its skip reason or its finding."""

    stage: str
    title: str
    status: Status
    seconds: float
    detail: str = ""


def stage_names() -> tuple[str, ...]:
    """Names of all stages in order."""
    return tuple(stage.name for stage in STAGES)


def run_pipeline(context: Context, tell: Callable[[StageResult], None] = lambda _result: None) -> list[StageResult]:
    """Run the stages in order, each at most once; stop at the first error.

    `tell` is called after each stage.

    Raises:
        MoeReleaseError: with the stage's title in front.
    """
    _require_known(context)
    context.planned = _planned(context.options)
    results: list[StageResult] = []
    missing: set[str] = set()
    with own_work_folder(context.work, context.manifest.name):
        for stage in STAGES:
            result = _run_stage(stage, context, missing)
            results.append(result)
            tell(result)
            if stage.name == context.options.until:
                break
        _run_again(context, results)
    return results


def _run_again(context: Context, results: Sequence[StageResult]) -> None:
    """Let stages tell what came after them, if that is all that changed; they stay up to date."""
    for number, (stage, result) in enumerate(zip(STAGES, results, strict=False)):
        later = any(each.status == "done" for each in results[number + 1 :])
        if stage.again is None or result.status == "skipped" or not later:
            continue
        with _titled(stage):
            record = read_record(context.work, stage.name)
            if record and record.fingerprint == _fingerprint(stage, context):
                stage.again(context)
                outputs = digested_outputs(context.work, stage.outputs(context))
                write_record(context.work, replace(record, outputs=outputs))


@contextmanager
def _titled(stage: Stage) -> Iterator[None]:
    """Put the stage's title in front of its errors."""
    try:
        yield
    except MoeReleaseError as error:
        raise type(error)(f"{stage.title}: {error}") from error


def _planned(options: Options) -> frozenset[str]:
    names = stage_names()
    last = names.index(options.until) if options.until else len(names) - 1
    return frozenset(names[: last + 1]) - options.skip


def _require_known(context: Context) -> None:
    named = {*context.options.skip, *filter(None, [context.options.until])}
    if unknown := sorted(named - set(stage_names())):
        raise InputError(f"no stage is called {unknown[0]!r}; the stages are {', '.join(stage_names())}")
    last = stage_names().index(context.options.until or stage_names()[-1])
    if context.options.limit is not None and last > stage_names().index("eval"):
        raise InputError("--limit is for smoke tests and ends after eval; a card needs all questions")


def _run_stage(stage: Stage, context: Context, missing: set[str]) -> StageResult:
    """Skip with a reason, or find it up to date, or run it: timing, records and error context stand here, once for all."""
    if reason := _skip_reason(stage, context, missing):
        return StageResult(stage.name, stage.title, "skipped", 0.0, reason)
    started = time.monotonic()
    with _titled(stage):
        fingerprint = _fingerprint(stage, context)
        record = _completed(stage, context, fingerprint)
        changed = changed_output(context.work, record) if record else None
        if record and changed is None:
            return StageResult(stage.name, stage.title, "up to date", time.monotonic() - started)
        if changed and _spent(stage, context, changed):
            return StageResult(stage.name, stage.title, "up to date", time.monotonic() - started, "deleted, and not needed")
        if changed:
            context.progress.note(f"{stage.title}: {changed} is gone or was changed since it was made; it is made again")
        detail = stage.run(context)
        seconds = time.monotonic() - started
        outputs, known = stage.outputs(context), stage.digests(context)
        record = make_record(context.work, stage.name, fingerprint or "", outputs, seconds, known)
        write_record(context.work, record)
    return StageResult(stage.name, stage.title, "done", seconds, detail or "")


def _fingerprint(stage: Stage, context: Context) -> str | None:
    """Digest of all that determines a stage's output; None for a stage that runs every time."""
    inputs = stage.inputs(context)
    return None if inputs is None else digest_of([stage.name, __version__, inputs])


def _completed(stage: Stage, context: Context, fingerprint: str | None) -> Record | None:
    """The record of an earlier run with the same inputs; a stage that runs every time has none."""
    record = read_record(context.work, stage.name)
    return record if fingerprint and record and record.fingerprint == fingerprint else None


def _usable(stage: Stage, context: Context) -> bool:
    """Whether a stage that is left out stands complete from an earlier run with the same inputs."""
    try:
        record = _completed(stage, context, _fingerprint(stage, context))
        changed = changed_output(context.work, record) if record else None
        return record is not None and (changed is None or _spent(stage, context, changed))
    except MoeReleaseError:  # it cannot even say what it would be made from
        return False


def _spent(stage: Stage, context: Context, changed: str) -> bool:
    """Whether an output that is gone was only for stages that are up to date; asked for by name, it is made."""
    if not stage.passing or (context.work / changed).exists() or stage.name == context.options.until:
        return False
    users = [each for each in STAGES if stage.name in each.needs and each.name in context.planned]
    return all(each.skip(context) or _usable(each, context) for each in users)


def _skip_reason(stage: Stage, context: Context, missing: set[str]) -> str | None:
    """Why a stage is not run; one that was left out and is not up to date is `missing` for those that need it."""
    if reason := stage.skip(context):
        return reason
    absent = [name for name in stage.needs if name in missing]
    if stage.name not in context.options.skip and not absent:
        return None
    if absent or not _usable(stage, context):
        missing.add(stage.name)
    return "--skip" if stage.name in context.options.skip else f"needs {absent[0]}, which was skipped"
