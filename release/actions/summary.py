"""What a run ends with: where the card is, the score with its interval, the digests, the seconds per stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pruner.errors import printable
from pruner.wording import counted
from release.actions.promotion import is_promoted
from release.card.table import format_interval
from release.context import Context
from release.evaluation.evidence import Evidence, read_evidence
from release.lock import read_lock
from release.pipeline import StageResult
from release.records import read_made, read_record
from release.stages.card import card_folder
from release.stages.evaluate import evidence_path
from release.stages.lock import work_lock_path
from release.stages.publish import PUBLISHED


def summary_json(context: Context, results: Sequence[StageResult]) -> dict[str, Any]:
    """The summary for machines: what this run made or found up to date, never what an older one left."""
    done = {result.stage for result in results if result.status != "skipped"}
    lock = read_lock(work_lock_path(context)) if "lock" in done else None
    published, answer = context.work / PUBLISHED, context.work / "readback.json"
    card = card_folder(context) / "README.md"
    return {
        "name": context.manifest.name,
        "work": str(context.work),
        "card": str(card) if "card" in done else None,
        "scores": {quant: _score(evidence) for quant, evidence in _evidence(context, done).items()},
        "published": read_made(published, dict[str, str]) if "publish" in done else {},
        "answer": read_made(answer, dict[str, str])["answer"] if "readback" in done and answer.exists() else None,
        "digests": {path: file.sha256 for path, file in lock.outputs.items()} if lock else {},
        "stages": [_stage(context, result) for result in results],
    }


def _evidence(context: Context, done: set[str]) -> dict[str, Evidence]:
    options = context.options
    quants = context.eval.quants if "eval" in done and options.limit is None and options.fold is None else []
    return {quant: read_evidence(evidence_path(context, quant)) for quant in quants}


def _score(evidence: Evidence) -> dict[str, Any]:
    return {
        "total": evidence.total,
        "raw_correct": evidence.raw_correct,
        "patched": evidence.patched,
        "patched_correct": evidence.patched_correct,
        "share": evidence.patched_share,
        "interval": [evidence.patched_interval.low, evidence.patched_interval.high],
        "protocol": evidence.protocol_digest,
    }


def _stage(context: Context, result: StageResult) -> dict[str, Any]:
    """A stage's line; of one that was up to date, the seconds that it took when it ran."""
    record = read_record(context.work, result.stage)
    return {
        "stage": result.stage,
        "status": result.status,
        "seconds": round(result.seconds, 3),
        "seconds_when_run": record.seconds if record else None,
        "peak_memory": record.peak_memory if record else None,
        "detail": result.detail,
    }


def summary_text(context: Context, results: Sequence[StageResult]) -> str:
    """The summary for a person."""
    summary = summary_json(context, results)
    lines = ["", f"{summary['name']} in {summary['work']}"]
    if context.options.limit is not None and results[-1].stage == "eval":
        asked = counted(context.options.limit, "question")
        lines.append(f"not done   what comes after eval: --limit asks at most {asked}, and a card needs all; run without it")
    if context.options.fold is not None:
        lines.append(
            "not done   the other folds: each has a variant of its own; `moe-release cross-fit` joins all of them to one score"
        )
    if summary["card"]:
        lines.append(f"card       {summary['card']}")
    done = {stage["stage"] for stage in summary["stages"] if stage["status"] != "skipped"}
    for quant, evidence in _evidence(context, done).items():
        lines.append(
            f"score      {quant}: {evidence.patched_correct} of {evidence.total} = {evidence.patched_share:.2%} "
            f"(95 % interval {format_interval(evidence.patched_interval)}; raw {evidence.raw_share:.2%})"
        )
    lines += [f"published  {repo}@{commit}" for repo, commit in summary["published"].items()]
    if summary["published"] and context.publish.private and not is_promoted(context):
        lines.append(f"private    until `{promote_command(context)}`")
    if summary["answer"]:
        lines.append(f"answer     {printable(' '.join(summary['answer'].split()))[:100]}")
    shown = [(path, digest) for path, digest in summary["digests"].items() if path.endswith((".safetensors", ".gguf"))]
    lines += [f"sha256     {digest}  {path}" for path, digest in shown]
    lines += ["seconds    " + ", ".join(_seconds(stage) for stage in summary["stages"] if stage["status"] != "skipped")]
    return "\n".join(lines)


def promote_command(context: Context) -> str:
    """The command that makes public what this run published, from its folder and on its Hub."""
    label = context.options.hub.label
    usual = context.work == Path("build") / context.manifest.name
    words = ["moe-release promote", str(context.loaded.path)]
    words += [] if usual else ["--work", str(context.work)]
    words += [] if label == "default" else ["--hub", label]
    return " ".join(words)


def _seconds(stage: dict[str, Any]) -> str:
    if stage["status"] == "up to date":
        return f"{stage['stage']} (up to date)"
    return f"{stage['stage']} {stage['seconds']:.1f}"
