"""Gates: what a run must have looked like before its score means anything.  The limits stand in the locked protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pruner.errors import CheckFailedError
from release.evaluation.evidence import Answered, Evidence, require_complete
from release.evaluation.lm_eval_run import ForeignAnswer, LmEvalRun, read_lm_eval_files, read_lm_eval_run
from release.evaluation.protocol import Gates, Protocol


def failed_gates(protocol: Protocol, questions: Sequence[Answered]) -> list[str]:
    """One phrase with share and limit for each gate that the replies, before the patch, do not pass."""
    problems = exceeded_shares(protocol.gates, questions)
    longest = max((each.prompt_tokens or 0 for each in questions), default=0)
    if longest + protocol.max_tokens > protocol.server.context:
        problems.append(
            f"context: the longest prompt has {longest} tokens, which with max_tokens {protocol.max_tokens} "
            f"exceeds the context of {protocol.server.context}"
        )
    return problems


def exceeded_shares(gates: Gates, questions: Sequence[Answered | ForeignAnswer]) -> list[str]:
    """The gates that hold for any run: shares of outcomes and loops."""
    total = len(questions)
    counts = {
        "empty or failed": (sum(each.outcome in {"empty", "failed"} for each in questions), gates.empty_or_failed),
        "truncated": (sum(each.outcome == "truncated" for each in questions), gates.truncated),
        "unparsable": (sum(each.outcome == "unparsable" for each in questions), gates.unparsable),
        "looping": (sum(each.looping for each in questions), gates.loops),
    }
    return [
        f"{name}: {count} of {total} replies ({count / total:.1%}), the limit is {limit:.1%}"
        for name, (count, limit) in counts.items()
        if count > limit * total
    ]


def read_gated_run(folder: Path, protocol: Protocol) -> LmEvalRun:
    """Read an output of lm-eval (see `read_lm_eval_run`), and refuse it beyond the protocol's shares."""
    return _gated(read_lm_eval_run(folder, protocol), folder, protocol)


def read_gated_files(samples: Path, results: Path, protocol: Protocol) -> LmEvalRun:
    """Read the two files of a run of lm-eval (see `read_lm_eval_files`), and refuse it beyond the protocol's shares."""
    return _gated(read_lm_eval_files(samples, results, protocol), samples, protocol)


def _gated(run: LmEvalRun, where: Path, protocol: Protocol) -> LmEvalRun:
    if problems := exceeded_shares(protocol.gates, run.questions):
        raise CheckFailedError(f"{where}: no score under the gates of protocol {protocol.name}: {'; '.join(problems)}")
    return run


def require_reference(protocol: Protocol, reference: Evidence | None) -> None:
    """Raise CheckFailedError when the protocol asks for a reference run on the card and there is none of its kind."""
    if not protocol.gates.reference:
        return
    if reference is None:
        raise CheckFailedError(
            f"protocol {protocol.name} wants a reference run beside the score; evaluate the base under it and give its "
            f"evidence under `compare` with `reference: true`"
        )
    require_complete(reference, protocol, f"the reference run of {reference.model_file}")


def require_gates(protocol: Protocol, questions: Sequence[Answered]) -> None:
    """Raise CheckFailedError when a gate is failed."""
    problems = failed_gates(protocol, questions)
    if problems:
        raise CheckFailedError(f"no evidence under protocol {protocol.name}: {'; '.join(problems)}")
