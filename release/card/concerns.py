"""What a person should know before a release is published, computed from its evidence and its lock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pruner.errors import CheckFailedError
from pruner.wording import some
from release.card.claims import Claim
from release.card.facts import Facts
from release.card.table import Row
from release.evaluation.compare import LEVEL, circumstances_in_words, compare
from release.evaluation.evidence import Evidence
from release.lock import Difference

Level = Literal["stop", "look"]
NOTABLE_SHARE = 0.05
"""Bad outcomes from this share of the questions on are worth a look."""


@dataclass(frozen=True)
class Concern:
    """`stop`: the release must not go out like this.  `look`: a person decides."""

    level: Level
    text: str


def lock_warnings(
    changed: Sequence[Difference] | None, changed_inputs: Sequence[str] = (), *, accepted: bool = False
) -> Iterator[Concern]:
    """How the build compares with the lock beside the manifest; None when there is no lock yet.

    What differs stops a release, unless a person `accepted` it with --update-lock.
    """
    level: Level = "look" if accepted else "stop"
    suffix = " (accepted with --update-lock)" if accepted else ""
    if changed is None:
        yield Concern("look", "there is no lock beside the manifest yet; this build becomes the lock")
        return
    if changed_inputs:
        yield Concern(level, f"made from other inputs than the lock{suffix}: {some(changed_inputs)}")
    wrong = [str(each) for each in changed if each.explained is None]
    if wrong:
        yield Concern(level, f"other than the lock, and nothing explains it{suffix}: {some(wrong)}")
    explained = [str(each) for each in changed if each.explained is not None]
    if explained:
        yield Concern("look", f"not comparable with the lock: {some(explained)}")


def run_warnings(runs: Mapping[str, Evidence], facts: Sequence[Facts], reference: Evidence | None) -> Iterator[Concern]:
    """What is doubtful in the runs; `facts` are those of the card, in the same order."""
    if runs and reference is None:
        yield Concern("look", "no row is the reference: nobody can see what pruning and quantizing cost")
    for (quant, run), shown in zip(runs.items(), facts, strict=True):
        if run.unverified:
            yield Concern(
                "look",
                f"{quant}: its servers ran elsewhere; not verified there: {', '.join(run.unverified)}. `verify` will say "
                f"UNKNOWN of it; to ask here, delete eval/{quant}/evidence.json from the work folder and run "
                "`moe-release eval` without --server",
            )
        bad = run.total - run.outcomes["valid"]
        if bad / run.total >= NOTABLE_SHARE:
            counts = ", ".join(f"{number:,} {name}" for name, number in run.outcomes.items() if number and name != "valid")
            yield Concern("look", f"{quant}: {bad:,} of {run.total:,} raw answers are not valid ({counts})")
        chance: Claim | None = shown["chance"]
        if chance is not None and float(chance.value) > LEVEL:
            yield Concern(
                "look",
                f"{quant}: {run.patched_right:,} of {run.patched:,} patched answers are right; guessing alone gives as many or "
                f"more with probability {chance}, so the patch shows no knowledge",
            )
        yield from _against(reference, quant, run)


def _against(reference: Evidence | None, quant: str, run: Evidence) -> Iterator[Concern]:
    if reference is None:
        return
    try:
        found = compare(reference, run)
    except CheckFailedError as error:
        yield Concern("look", f"{quant}: cannot be compared with the reference: {error}")
        return
    if beside := circumstances_in_words(reference, run):
        yield Concern("look", f"{quant}: differs from the reference run by more than its model: {beside}")
    if found.patched.p < LEVEL and found.patched.difference < 0:
        yield Concern("look", f"{quant}: worse than the reference: {found.words}")


def table_warnings(rows: Sequence[Row]) -> Iterator[Concern]:
    """Rows that stand in the table and in no test."""
    if reported := [row.label for row in rows if row.reported]:
        yield Concern("look", f"reported by others, not reproduced here: {some(reported)}")
    for row in rows:
        if row.difference.startswith("not comparable"):
            yield Concern("look", f"{row.label} {row.quant}".strip() + f": {row.difference}")


def overlap_warnings(contamination: Facts | None, *, evaluated: bool) -> Iterator[Concern]:
    """Whether the exam is of unseen questions."""
    if not evaluated:
        yield Concern("look", "nothing was evaluated: the card holds no score")
    elif contamination is None:
        yield Concern("look", "nobody said which questions the drop map was made from; the exam may hold them")
    elif contamination["overlap"].value:
        said = f"{contamination['overlap']} of {contamination['exam']} questions of the exam are calibration questions"
        yield Concern("look", f"{said}: on these the score is in-sample")
