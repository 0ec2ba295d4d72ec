"""What `moe-release compare` says: each run's score, and each against the first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruner.errors import InputError, MoeReleaseError
from pruner.wording import counted
from release.documents import load_document
from release.evaluation.compare import Comparison, Contrast, Run, comparable, compare, contrast, in_words, title
from release.evaluation.differences import differing_evidence
from release.evaluation.evidence import Evidence, Interval, read_evidence, require_complete, require_whole
from release.evaluation.gates import read_gated_run
from release.evaluation.lm_eval_run import LmEvalRun
from release.evaluation.protocol import Protocol, protocol_digest

FOLDERS_ABOVE = 3
"""How far up from an evidence file its protocol is looked for: reproduce/evidence/Q6_K.json, tiny/evidence/x.json."""


@dataclass(frozen=True)
class Report:
    """Runs in the order of the command line, and what each but the first is beside the first."""

    runs: tuple[Run, ...]
    comparisons: tuple[Comparison | Contrast, ...]

    def to_json(self) -> dict[str, Any]:
        """For machines; questions are left to the evidence."""
        return {
            "runs": [
                {"title": title(run), "words": score_in_words(run), **run.model_dump(mode="json", exclude={"questions"})}
                for run in self.runs
            ],
            "comparisons": [
                {
                    **each.model_dump(mode="json"),
                    "tested": isinstance(each, Comparison),
                    "not_repeated": not_repeated(self.runs[0], run),
                }
                for run, each in zip(self.runs[1:], self.comparisons, strict=True)
            ],
        }

    def text(self) -> str:
        """For people."""
        lines = [f"{title(run)}: {score_in_words(run)}" for run in self.runs]
        for run, each in zip(self.runs[1:], self.comparisons, strict=True):
            lines += ["", f"{each.b} against {each.a}: {each.words}"]
            lines += [f"  the same quant under the same protocol, and yet: {what}" for what in not_repeated(self.runs[0], run)]
            if isinstance(each, Comparison):
                if each.raw != each.patched:
                    lines.append(f"  before the patch: {in_words(each.raw)}")
                lines += [f"  also differs: {difference}" for difference in each.differing]
        return "\n".join(lines)


def compare_runs(paths: Sequence[Path], protocols: Sequence[Path] = (), *, allow_different_protocols: bool = False) -> Report:
    """Read runs and compare all with the first.

    Args:
        paths: evidence files, or output folders of lm-eval.
        protocols: files of protocols.  Runs of lm-eval must pass the gates of the first; evidence under one must be of all its
            questions.  Those that stand beside evidence are found.
        allow_different_protocols: such runs are contrasted, without a test.

    Raises:
        InputError: fewer than two runs, one cannot be read, or no run has to do with a protocol.
        CheckFailedError: a run does not add up, is of one fold, is not of all questions or fails a gate, or two cannot be
            compared.
    """
    if len(paths) < 2:  # noqa: PLR2004  # that is what comparing takes
        raise InputError("compare: give two evidence files or more; the first is the reference")
    given = [load_document(path, Protocol) for path in protocols]
    runs = tuple(_read(path, given[0] if given else None) for path in paths)
    _require_used(protocols, given, runs)
    known = {protocol_digest(each): each for each in [*_beside(paths), *given]}
    for path, run in zip(paths, runs, strict=True):
        if isinstance(run, Evidence) and run.fold:
            require_whole(run, str(path))
        if isinstance(run, Evidence) and not run.partial and run.protocol_digest in known:
            require_complete(run, known[run.protocol_digest], str(path))
    first, *others = runs
    comparisons = [
        contrast(first, each, known) if allow_different_protocols and not comparable(first, each) else compare(first, each)
        for each in others
    ]
    return Report(runs, tuple(comparisons))


def _require_used(paths: Sequence[Path], protocols: Sequence[Protocol], runs: Sequence[Run]) -> None:
    """Raise InputError for a protocol that says nothing about any of the runs."""
    followed = {run.protocol_digest for run in runs if isinstance(run, Evidence)}
    gating = any(isinstance(run, LmEvalRun) for run in runs)
    for number, (path, protocol) in enumerate(zip(paths, protocols, strict=True)):
        if protocol_digest(protocol) not in followed and not (gating and number == 0):
            raise InputError(f"--protocol {path}: none of these runs followed it; leave it out")


def _beside(paths: Sequence[Path]) -> Iterator[Protocol]:
    """The protocols that stand in the folders of evidence, or in a folder `protocols` there: in a release's reproduce/, say."""
    near = [folder for path in paths if path.is_file() for folder in list(path.absolute().parents)[:FOLDERS_ABOVE]]
    folders = dict.fromkeys(place for folder in near for place in (folder, folder / "protocols"))
    for file in (file for folder in folders for file in sorted(folder.glob("*.yaml"))):
        with suppress(MoeReleaseError):
            yield load_document(file, Protocol)


def _read(path: Path, protocol: Protocol | None) -> Run:
    if not path.is_dir():
        return read_evidence(path)
    if protocol is None and not next(path.rglob("results_*.json"), None):
        raise InputError(f"{path}: holds no run of lm-eval; give an evidence file, or the output folder of one run")
    if protocol is None:
        raise InputError(
            f"{path}: an lm-eval run brings no gates of its own; name a protocol whose gates it must pass: --protocol"
        )
    return read_gated_run(path, protocol)


def not_repeated(a: Run, b: Run) -> list[str]:
    """What differs between two files of evidence that should be equal: the same quant, toolchain and protocol."""
    if not (isinstance(a, Evidence) and isinstance(b, Evidence)):
        return []
    same = ("protocol_digest", "model_sha256", "toolchain_commit", "unverified")
    return differing_evidence(a, b) if all(getattr(a, name) == getattr(b, name) for name in same) else []


def score_in_words(run: Run) -> str:
    """For instance: 159 of 198 = 80.30 % (95 % interval 74.2–85.2 %; raw 154, 10 asked again); valid 188, empty 10."""
    if isinstance(run, LmEvalRun):
        score = _score(run.correct, run.total, run.interval)
    else:
        score = _score(run.patched_correct, run.total, run.patched_interval, run.patched_error)
        score += f"; raw {_score(run.raw_correct, run.total, run.raw_interval, run.raw_error)}; {run.patched} asked again"
        score += f"; {counted(run.asked, 'question')} asked {run.repeats} times" if run.repeats > 1 else ""
    outcomes = ", ".join(f"{name} {count}" for name, count in run.outcomes.items() if count)
    unverified = "; its servers ran elsewhere" if isinstance(run, Evidence) and run.unverified else ""
    return f"{score}; {outcomes}{unverified}{'; partial' if run.partial else ''}"


def _score(correct: int, total: int, interval: Interval, error: float | None = None) -> str:
    bounds = f"95 % interval {100 * interval.low:.1f}–{100 * interval.high:.1f} %"
    bounds += f", standard error {100 * error:.2f} pp" if error is not None else ""
    return f"{correct} of {total} = {correct / total:.2%} ({bounds})"
