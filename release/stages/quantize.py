"""Quantize: one GGUF per quant, made by llama-quantize or cut from the base's; a large one is split into shards.

What llama-quantize makes runs side by side; types are read back from every file.

Each quant has a record of its own, so that a run that was killed goes on with those that it lacks.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruner.errors import CheckFailedError, InputError
from pruner.files import canonical_json, digest_of, read_json, write_atomic
from release import __version__
from release.context import Context
from release.lock import digest_of_quant
from release.manifest import Quant
from release.records import Output, Record, changed_output, read_made, read_record, write_record
from release.stages.calibrate import imatrix_of
from release.stages.convert import check_assigned_types, skip_without_gguf, source_gguf
from release.stages.cut_quant import cut_leftovers, cut_quant, file_entry
from release.stages.projectors import copy_projectors, projector_leftovers
from release.stages.resolve import file_digest
from release.stages.stage import Stage

if TYPE_CHECKING:
    from release.gguf.summary import GgufSummary


def summaries_path(context: Context) -> Path:
    """What was read back from each quant: types, sizes, digests."""
    return context.work / "quants.json"


def read_summaries(context: Context) -> dict[str, dict[str, Any]]:
    """Summaries by quant name."""
    return read_made(summaries_path(context), dict[str, dict[str, Any]])


def quant_files(context: Context, quant: str) -> list[Path]:
    """The file of a quant, or its shards in order.

    Raises:
        CheckFailedError: it has not been made.
    """
    context.record("quantize")
    summary = read_summaries(context).get(quant)
    if summary is None:
        raise CheckFailedError(f"{quant} has not been made; run `moe-release quantize {context.loaded.path}`")
    return [context.work / "gguf" / file["name"] for file in summary["files"]]


def model_file(context: Context, quant: str) -> Path:
    """What llama.cpp is given to load a quant: its file, or its first shard."""
    return quant_files(context, quant)[0]


def model_digest(context: Context, quant: str) -> str:
    """SHA-256 of a quant's file; of one in shards, see `digest_of_quant`.

    Raises:
        CheckFailedError: it has not been made.
    """
    digests = context.record("quantize").digests()
    paths = [path.relative_to(context.work).as_posix() for path in quant_files(context, quant)]
    if any(path not in digests for path in paths):
        raise CheckFailedError(f"{quant} has not been made; run `moe-release quantize {context.loaded.path}`")
    return digest_of_quant([digests[path] for path in paths])


def _inputs_of(context: Context, quant: Quant) -> list[Any]:
    """All that determines one quant, whatever others the manifest lists."""
    if quant.from_ is not None:
        return [context.made_by("rank"), quant.model_dump(), context.gguf.max_shard_size]
    imatrix = context.made_by("calibrate") if imatrix_of(context) else None
    own = [quant.model_dump(), file_digest(context, quant.tensor_types), context.gguf.max_shard_size]
    return [context.made_by("convert"), imatrix, own, context.toolchain_inputs()]


def _inputs(context: Context) -> Any:
    return [[_inputs_of(context, quant) for quant in context.gguf.quants], [each.model_dump() for each in context.gguf.mmproj]]


def _run(context: Context) -> str:
    check_assigned_types(context)
    quants = context.gguf.quants
    finished = {quant.name: summary for quant in quants if (summary := _finished(context, quant))}
    _remove_others(context, finished)
    missing = [quant for quant in quants if quant.name not in finished]
    if finished and missing:
        context.progress.note(f"{', '.join(finished)} made by an earlier run; {len(missing)} to go")
    made = {quant.name: _cut(context, quant) for quant in missing if quant.from_ is not None}
    made |= _side_by_side(context, [quant for quant in missing if quant.from_ is None])
    summaries = {quant.name: finished.get(quant.name) or made[quant.name] for quant in quants}
    _require_distinct(summaries)
    copy_projectors(context)
    write_atomic(summaries_path(context), canonical_json(summaries))
    return "; ".join(str(summary["composition"]) for summary in summaries.values())


def _side_by_side(context: Context, quants: list[Quant]) -> dict[str, dict[str, Any]]:
    """Quantize as many at a time as memory and cores allow; summaries by name."""
    from release.gguf.reader import read_header
    from release.gguf.side_by_side import how_many, memory_of_quantize, run_all

    if not quants:
        return {}
    need = memory_of_quantize(read_header(source_gguf(context)))
    budget = context.options.memory or context.gguf.memory
    at_a_time = how_many(jobs=len(quants), need=need, budget=budget, threads=context.gguf.threads)
    if at_a_time > 1:
        context.progress.note(f"quantizing {at_a_time} at a time, each in at most {need / (1 << 30):.1f} GiB")
    jobs: list[Callable[[], dict[str, Any]]] = [partial(_quantize, context, quant) for quant in quants]
    return dict(zip([quant.name for quant in quants], run_all(jobs, at_a_time=at_a_time), strict=True))


def _part(quant: str) -> str:
    """Name of the record of one quant."""
    return f"quantize-{quant}"


def _summary_path(context: Context, quant: str) -> Path:
    return context.work / "records" / "quants" / f"{quant}.json"


def _fingerprint(context: Context, quant: Quant) -> str:
    return digest_of([_part(quant.name), __version__, _inputs_of(context, quant)])


def _finished(context: Context, quant: Quant) -> dict[str, Any] | None:
    """The summary of a quant that an earlier run finished from the same inputs and that is still whole."""
    record = read_record(context.work, _part(quant.name))
    if record is None or record.fingerprint != _fingerprint(context, quant) or changed_output(context.work, record) is not None:
        return None
    try:
        summary: dict[str, Any] = read_json(_summary_path(context, quant.name), "quant summary")
    except InputError:
        return None
    return summary


def _remove_others(context: Context, finished: dict[str, dict[str, Any]]) -> None:
    """Everything but finished quants goes: leftovers, and what the manifest no longer lists, which would be published."""
    wanted = {file["name"] for summary in finished.values() for file in summary["files"]}
    wanted |= {source.name for source in context.gguf.mmproj}
    begun = [*projector_leftovers(context), *(path for name in context.gguf.cut for path in cut_leftovers(context, name))]
    wanted |= {path.name for path in begun}
    for path in (context.work / "gguf").glob("*"):
        if path.is_dir():  # left by a killed run
            shutil.rmtree(path)
        elif path.name not in wanted:
            path.unlink()


def _quantize(context: Context, quant: Quant) -> dict[str, Any]:
    """Make one quant with llama-quantize."""
    from release.gguf.summary import fallbacks

    summary, files = make_quant(context, quant, context.gguf_file(quant.name), imatrix_of(context))
    shown = {**summary.to_json(), "composition": fallbacks(summary, str(quant.type)), "files": files}
    shown["file_size"] = sum(file["size"] for file in files)
    return _recorded(context, quant, shown)


def _cut(context: Context, quant: Quant) -> dict[str, Any]:
    """Cut one quant from the base's GGUF."""
    if quant.from_ is None:
        raise InputError(f"gguf.quants: {quant.name} names no file to cut it from")
    return _recorded(context, quant, cut_quant(context, quant.name, quant.from_))


def _recorded(context: Context, quant: Quant, shown: dict[str, Any]) -> dict[str, Any]:
    """Keep the summary of a finished quant; its record is written last."""
    path = _summary_path(context, quant.name)
    write_atomic(path, canonical_json(shown))
    places = {f"gguf/{file['name']}": file["sha256"] for file in shown["files"]}
    outputs = {place: _output(context.work / place, sha256) for place, sha256 in places.items()}
    outputs[path.relative_to(context.work).as_posix()] = _output(path, digest_of(shown))
    write_record(context.work, Record(_part(quant.name), _fingerprint(context, quant), outputs, 0.0, 0))
    return shown


def _output(path: Path, sha256: str) -> Output:
    state = path.stat()
    return Output(sha256, state.st_size, state.st_mtime_ns)


def make_quant(context: Context, quant: Quant, target: Path, imatrix: Path | None) -> tuple[GgufSummary, list[dict[str, Any]]]:
    """Quantize to `target`, and split it when it is larger than the manifest's shards may be.

    Returns:
        The summary of the whole quant, and name, size and digests of each file that it is in.
    """
    from release.gguf.quantize import quantize
    from release.gguf.split import split_gguf

    log = context.logs / f"quantize-{quant.name}.log"
    summary = quantize(
        context.toolchain,
        source_gguf(context),
        target,
        quant_type=str(quant.type),
        imatrix=imatrix,
        tensor_types=context.loaded.file(quant.tensor_types) if quant.tensor_types else None,
        threads=context.gguf.threads,
        log=log,
        progress=context.progress,
    )
    cap = context.gguf.max_shard_size
    if cap is None or sum(tensor.size for tensor in summary.tensors) <= cap:
        return summary, [file_entry(target.name, summary)]
    shards = split_gguf(
        context.toolchain,
        target,
        target.with_suffix(""),
        max_bytes=cap,
        tensor_digest=summary.tensor_digest,
        log=log,
        progress=context.progress,
    )
    target.unlink()
    return summary, [file_entry(name, shard) for name, shard in shards]


def _require_distinct(summaries: dict[str, dict[str, Any]]) -> None:
    """Two tiers with the same tensor data are the same file under two names: someone would publish one of them by mistake."""
    seen: dict[str, str] = {}
    for name, summary in summaries.items():
        if (twin := seen.setdefault(summary["tensor_digest"], name)) != name:
            raise CheckFailedError(f"quants {twin} and {name} hold the same tensor data; drop one of them from the manifest")


def _outputs(context: Context) -> list[Path]:
    return [summaries_path(context), context.work / "gguf"]


STAGE = Stage(
    name="quantize",
    title="quantizing",
    run=_run,
    inputs=_inputs,
    outputs=_outputs,
    skip=skip_without_gguf,
    needs=("rank", "convert", "calibrate"),
)
