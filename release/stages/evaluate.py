"""Evaluate: the locked exam on the quants that the manifest names, with its patch pass."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from pruner.drop_map import read_drop_map
from pruner.errors import CheckFailedError, InputError
from pruner.files import digest_of, path_inside, write_atomic
from pruner.folds import fold_in, seen_questions
from release.context import Context
from release.evaluation.evidence import Evidence, read_evidence, require_complete
from release.evaluation.gates import failed_gates
from release.evaluation.protocol import Protocol, load_protocol, protocol_digest
from release.evaluation.timing import Timing, read_timing
from release.lock import timing_key
from release.stages.analyze import statistics_path
from release.stages.prune import drop_map_path
from release.stages.quantize import model_digest, model_file
from release.stages.resolve import dataset_path
from release.stages.stage import Stage

RUN_MARK = "run.id"
"""Names the run that a folder holds: the digest of protocol, model and toolchain."""


def evidence_path(context: Context, quant: str) -> Path:
    """The evidence of one quant's run."""
    return context.work / "eval" / quant / "evidence.json"


def timing_path(context: Context, quant: str) -> Path:
    """The seconds of each question of one quant's run."""
    return context.work / timing_key(quant)


def protocol_of(context: Context) -> Protocol:
    """The manifest's protocol."""
    return load_protocol(path_inside(context.loaded.root, context.eval.protocol), context.loaded.root)


def evidence_of(context: Context) -> dict[str, Evidence]:
    """Evidence of every quant that was to be evaluated.

    Raises:
        InputError: a run is missing.
        CheckFailedError: its totals do not follow from its answers, or it is not the whole exam of this protocol.
    """
    if context.manifest.eval is None:
        return {}
    protocol = protocol_of(context)
    found = {quant: read_evidence(evidence_path(context, quant)) for quant in context.eval.quants}
    for quant, evidence in found.items():
        if evidence.protocol_digest != protocol_digest(protocol):
            raise CheckFailedError(f"the run of {quant} followed another protocol than the manifest's; run `moe-release eval`")
        require_complete(evidence, protocol, f"the run of {quant}")
    return found


def timings_of(context: Context) -> dict[str, Timing]:
    """Seconds of every quant that was evaluated here; a work folder from before they were kept has none.

    Raises:
        InputError: one was damaged.
    """
    paths = {quant: timing_path(context, quant) for quant in context.eval.quants}
    return {quant: read_timing(path) for quant, path in paths.items() if path.exists()}


def require_fold(context: Context) -> None:
    """Raise InputError when a run asks for a fold that is not the one that the pinned map was made without."""
    prune, asked = context.manifest.prune, context.options.fold
    if asked is None:
        return
    if prune is None or prune.drop_map is None or prune.calibration is None:
        raise InputError(
            f"{context.loaded.path}: --fold is for a map of `moe-release rank --folds`: "
            "pin it as prune.drop_map and name its questions in prune.calibration"
        )
    made = fold_in(read_drop_map(context.loaded.file(prune.drop_map)).provenance, "prune.drop_map")
    if made is not None and made != asked:
        raise InputError(f"--fold {asked[0]}/{asked[1]}: the pinned map was made without fold {made[0]}/{made[1]}; give that")


def _asks_a_part(context: Context) -> bool:
    """Whether a run is no whole exam: evidence that no later stage may find."""
    return context.options.limit is not None or context.options.fold is not None


def _skip(context: Context) -> str | None:
    return None if context.manifest.eval else "the manifest has no eval section"


def _inputs(context: Context) -> Any:
    if _asks_a_part(context):
        return None
    models = {quant: model_digest(context, quant) for quant in context.eval.quants}
    made = ["evidence", "timing"]  # work folders from before have no seconds; the ledger gives them
    return [protocol_digest(protocol_of(context)), models, context.toolchain_inputs(), calibration_digests(context), made]


def calibration_digests(context: Context) -> tuple[str, ...] | None:
    """Digests of the questions that the drop map was made from; None for a base, and of a pinned map that nobody said it of."""
    from pruner.calibration import read_digests
    from pruner.statistics import read_statistics

    prune = context.manifest.prune
    if prune and prune.analysis:
        return read_statistics(statistics_path(context)).header.questions
    if prune and prune.calibration:
        fold = fold_in(read_drop_map(drop_map_path(context)).provenance, "prune.drop_map")
        return seen_questions(read_digests(dataset_path(context, prune.calibration.dataset), prune.calibration.fields), fold)
    return None


def _run_folder(context: Context, quant: str) -> Path:
    """Folder of a quant's run.

    The run of another model, protocol or toolchain is moved aside and comes back when it is asked for again: its replies may
    have taken days.
    """
    folder = evidence_path(context, quant).parent
    identity = digest_of([protocol_digest(protocol_of(context)), model_digest(context, quant), context.toolchain.commit])
    if folder.exists() and (found := _run_of(folder)) != identity:
        aside = _free_name(_aside(folder, found))
        folder.rename(aside)
        context.progress.note(f"{quant}: the run of another model, protocol or llama.cpp is kept as {aside}")
    if not folder.exists() and _run_of(earlier := _aside(folder, identity)) == identity:
        earlier.rename(folder)
        context.progress.note(f"{quant}: goes on with its earlier run, which was kept as {earlier}")
    write_atomic(folder / RUN_MARK, identity.encode())
    return folder


def _run_of(folder: Path) -> str:
    """Which run a folder holds; nothing where nobody can tell."""
    mark = folder / RUN_MARK
    return mark.read_text(encoding="ascii", errors="replace") if mark.is_file() else ""


def _aside(folder: Path, identity: str) -> Path:
    return folder.with_name(f"{folder.name}.{identity[:12] or 'unknown'}")


def _free_name(wanted: Path) -> Path:
    """That name, or the first with a number behind it that nothing has."""
    names = itertools.chain([wanted], (wanted.with_name(f"{wanted.name}-{number}") for number in itertools.count(2)))
    return next(name for name in names if not name.exists())


def _outputs(context: Context) -> list[Path]:
    if _asks_a_part(context):
        return []  # partial evidence is nothing that a later stage may find
    return [path(context, quant) for quant in context.eval.quants for path in (evidence_path, timing_path)]


def _run(context: Context) -> str:
    from release.evaluation.runner import evaluate

    protocol, options = protocol_of(context), context.options
    findings = []
    for quant in context.eval.quants:
        model = model_file(context, quant)
        evidence = evaluate(
            protocol,
            root=context.loaded.root,
            server_binary=context.toolchain.binary("llama-server"),
            toolchain_commit=context.toolchain.commit,
            model=model,
            model_sha256=model_digest(context, quant),
            quant=quant,
            folder=_run_folder(context, quant),
            progress=context.progress,
            limit=options.limit,
            servers=options.servers,
            urls=options.server_urls,
            calibration=calibration_digests(context),
            fold=options.fold,
        )
        scores = f"{evidence.raw_correct} raw, {evidence.patched_correct} patched of {evidence.total}"
        findings.append(f"{quant}: {scores} ({evidence.patched} asked again){_part_in_words(context, protocol, evidence)}")
    return "; ".join(findings)


def _part_in_words(context: Context, protocol: Protocol, evidence: Evidence) -> str:
    """That a run is partial, and which gates a whole run like it would not pass; of a fold, where its evidence is."""
    if evidence.fold:
        path = evidence_path(context, evidence.quant).with_name(evidence.fold.file)
        return f" — {evidence.fold.name}, for `moe-release cross-fit`: {path}"
    if not evidence.partial:
        return ""
    gates = "; ".join(failed_gates(protocol, evidence.questions))
    return f" — partial{'; a whole run would fail its gates: ' + gates if gates else ''}"


STAGE = Stage(
    name="eval",
    title="evaluating",
    run=_run,
    inputs=_inputs,
    outputs=_outputs,
    skip=_skip,
    needs=("quantize",),
)
