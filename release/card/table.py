"""The results table: evidence of this release and of others, and scores that someone else reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruner.errors import CheckFailedError
from release.card.claims import Claim, SourcedText
from release.evaluation.evidence import Evidence, Interval
from release.evaluation.lm_eval_run import LmEvalRun
from release.reported import Reported


@dataclass(frozen=True)
class Row:
    """One line of the table; its texts are claims.  `difference` is in words, or says why a row is not compared.

    `points` is the size of that difference with its sign: of the score with patch beyond that of the reference.
    `origin` says of a reported score what was asked, where and when it was published.
    """

    label: str
    quant: str
    correct: str
    raw: Claim | None
    raw_interval: str
    patched: Claim
    interval: str
    difference: str
    points: Claim | None = None
    reported: Reported | None = None
    origin: SourcedText | None = None
    reference: bool = False


@dataclass(frozen=True)
class Entry:
    """What a row is made of: evidence or an lm-eval output with the place it stands, or a reported score."""

    label: str
    source: str
    evidence: Evidence | None = None
    reported: Reported | None = None
    reference: bool = False
    foreign: LmEvalRun | None = None
    pruned: bool = False
    """A run of a release whose experts were chosen: by what questions, its reader must know."""

    @property
    def named(self) -> SourcedText:
        """The label as a claim: a person wrote it into the manifest."""
        return SourcedText(self.label, f"manifest.yaml: compare ({self.source})")


def rows(entries: Sequence[Entry]) -> list[Row]:
    """Rows with differences from the reference entry; its own evidence must be in the same protocol to be compared."""
    reference = next((entry.evidence for entry in entries if entry.reference), None)
    return [_row(entry, reference) for entry in entries]


def _row(entry: Entry, reference: Evidence | None) -> Row:
    if entry.reported:
        return _reported_row(entry, entry.reported)
    if entry.foreign:
        return _foreign_row(entry, entry.foreign)
    evidence = entry.evidence
    if evidence is None or evidence.partial:
        raise CheckFailedError(f"{entry.source}: is a partial run, which can never stand on a card; run the whole exam")
    questions = f"{entry.source}: questions"
    points, words = (None, "reference") if entry.reference else _difference(evidence, reference)
    return Row(
        label=entry.named,
        quant=SourcedText(evidence.quant, f"{entry.source}: quant"),
        correct=SourcedText(f"{evidence.raw_correct} → {evidence.patched_correct} of {evidence.total}", questions),
        raw=Claim(evidence.raw_share, "share", f"{entry.source}: raw_correct / total"),
        raw_interval=_sourced_interval(evidence.raw_interval, f"{entry.source}: raw_interval"),
        patched=Claim(evidence.patched_share, "share", f"{entry.source}: patched_correct / total"),
        interval=_sourced_interval(evidence.patched_interval, f"{entry.source}: patched_interval"),
        difference=SourcedText(words, f"{questions}, paired"),
        points=None
        if points is None
        else Claim(points, "points", f"{questions}, paired: difference of patched_correct / total"),
        reference=entry.reference,
    )


def _reported_row(entry: Entry, reported: Reported) -> Row:
    where = f"{entry.source}, reported at {reported.url}"
    before, total = reported.raw_correct, reported.total
    counts = f"{reported.correct} of {total}" if before is None else f"{before} → {reported.correct} of {total}"
    return Row(
        label=entry.named,
        quant=SourcedText(reported.quant or "", where),
        correct=SourcedText(counts, where),
        raw=None if before is None else Claim(before / total, "share", f"{where}: raw_correct / total"),
        raw_interval="",
        patched=Claim(reported.correct / total, "share", f"{where}: correct / total"),
        interval="",
        difference="not reproduced here",
        reported=reported,
        origin=SourcedText(reported.origin, where),
    )


def _foreign_row(entry: Entry, run: LmEvalRun) -> Row:
    if run.partial:
        raise CheckFailedError(f"{entry.source}: is a limited run of lm-eval, which can never stand on a card")
    share = Claim(run.correct / run.total, "share", f"{entry.source}: samples")
    why = (
        f"not comparable: a run of lm-eval {run.settings['lm_eval_version']}, task {run.settings['task']}, not of this protocol"
    )
    counts = SourcedText(f"{run.correct} of {run.total}", f"{entry.source}: samples")
    interval = _sourced_interval(run.interval, f"{entry.source}: samples")
    return Row(entry.named, "", counts, None, "", share, interval, SourcedText(why, f"{entry.source}: results"))


def _sourced_interval(interval: Interval, source: str) -> SourcedText:
    return SourcedText(format_interval(interval), source)


def _difference(evidence: Evidence, reference: Evidence | None) -> tuple[float | None, str]:
    """The difference from the reference as a share of 1, and in words."""
    if reference is None:
        return None, "no reference"
    from release.evaluation.compare import circumstances_in_words, compare

    try:
        found = compare(reference, evidence)
    except CheckFailedError as error:
        return None, f"not comparable: {error}"
    beside = circumstances_in_words(reference, evidence)
    words = f"{found.words}; also differs: {beside}" if beside else found.words
    return found.patched.difference / found.patched.total, words


def format_interval(interval: Interval) -> str:
    """A 95 % interval in percent."""
    return f"{100 * interval.low:.1f}–{100 * interval.high:.1f} %"
