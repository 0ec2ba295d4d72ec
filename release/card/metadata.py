"""Scores for machines: the model-index of a card, and the Hub's `.eval_results/*.yaml`.

Only runs of this release stand there, each with its protocol; reported scores and those of other models never do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pruner.errors import InputError
from release.card.claims import SHORT_DIGEST
from release.evaluation.evidence import Evidence
from release.evaluation.protocol import Protocol
from release.manifest import Leaderboard

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

TASK_TYPE = "text-generation"


def percent(share: float) -> float:
    """A share of 1 in percent, rounded as cards show it; the Hub's pages list percent."""
    return round(100 * share, 2)


def eval_results(runs: Sequence[Evidence], protocol: Protocol, digest: str, weights: str | None) -> list[EvalResult]:
    """The model-index of runs: raw and patched score of each quant, side by side.

    Args:
        runs: finished runs under `protocol`, whose digest is `digest`.
        protocol: what they followed.
        digest: SHA-256 of the protocol.
        weights: the repository that holds the evidence, None when nothing is published.
    """
    return [result for run in runs for result in _results_of(run, protocol, digest, weights)]


def _results_of(run: Evidence, protocol: Protocol, digest: str, weights: str | None) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    data = protocol.data
    scores = [("raw", run.raw_share, run.raw_interval)]
    if run.patch_method:
        scores.append((f"with patch {run.patch_method}", run.patched_share, run.patched_interval))
    return [
        EvalResult(
            task_type=TASK_TYPE,
            dataset_type=data.repository or protocol.name,
            dataset_name=f"{protocol.task.name} ({protocol.name})",
            dataset_config=data.config,
            dataset_revision=data.revision,
            dataset_args={"sha256": data.sha256, "questions": run.total},
            metric_type=protocol.task.metric,
            metric_name=f"{protocol.task.metric} in %, {how}, {run.quant}, protocol {protocol.name}",
            metric_value=percent(share),
            metric_args={
                "protocol": protocol.name,
                "protocol_digest": digest,
                "filter": protocol.task.filter,
                "quant": run.quant,
                "score": how,
                "interval_95": [percent(interval.low), percent(interval.high)],
            },
            source_name="Evidence, question by question" if weights else None,
            source_url=f"https://huggingface.co/{weights}/tree/main/reproduce/evidence" if weights else None,
        )
        for how, share, interval in scores
    ]


def leaderboard_dataset(leaderboard: Leaderboard, protocol: Protocol) -> str:
    """The data set on the Hub that the entries belong to.

    Raises:
        InputError: neither the manifest nor the protocol names one.
    """
    dataset = leaderboard.dataset or protocol.data.repository
    if dataset is None:
        raise InputError("card.leaderboard: the protocol's questions are a file; name the data set on the Hub as `dataset`")
    return dataset


def leaderboard_yaml(
    runs: Sequence[Evidence], protocol: Protocol, digest: str, leaderboard: Leaderboard, weights: str | None
) -> str:
    """The file for `.eval_results/`: one entry for each run with its raw score, which is the task's own metric.

    Raises:
        InputError: neither the manifest nor the protocol names a data set on the Hub.
    """
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    dataset = leaderboard_dataset(leaderboard, protocol)
    entries = [
        EvalResultEntry(
            dataset_id=dataset,
            task_id=leaderboard.task,
            value=percent(run.raw_share),
            dataset_revision=protocol.data.revision if dataset == protocol.data.repository else None,
            source_url=f"https://huggingface.co/{weights}/blob/main/reproduce/evidence/{run.quant}.json" if weights else None,
            source_name="Evidence, question by question" if weights else None,
            notes=_notes(run, protocol, digest),
        )
        for run in runs
    ]
    content: list[dict[str, Any]] = eval_result_entries_to_yaml(entries)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)


def _notes(run: Evidence, protocol: Protocol, digest: str) -> str:
    patch = ""
    if run.patch_method:
        patch = f"; with patch {run.patch_method}: {percent(run.patched_share):.2f} % ({run.patched} asked again)"
    return (
        f"raw score of quant {run.quant}, {run.raw_correct} of {run.total}{patch}; "
        f"protocol {protocol.name}, digest {digest[:SHORT_DIGEST]}"
    )
