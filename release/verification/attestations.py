"""Who else rebuilt the release."""

from __future__ import annotations

from release.attestation.rebuild import FOLDER
from release.attestation.votes import verified_rebuilds
from release.hub.published import Published
from release.verdict import Finding, Verdict

PART = "attestations"


def check_attestations(published: Published) -> Finding | None:
    """The finding on statements of others; None when there are none.

    BAD when a counted party reports BAD, or a listed key's signature does not hold.  Statements of unknown keys are named and
    change nothing: anybody can propose one.

    Raises:
        InputError, UnavailableError: see `verified_rebuilds`.
    """
    if not any(name.startswith(f"{FOLDER}/") for name in published.weights.files):
        return None
    counts = verified_rebuilds(published)
    broken = [(name, reason) for name, verdict, reason in counts.notes if verdict is Verdict.BAD]
    ignored = sum(verdict is Verdict.UNKNOWN for _, verdict, _ in counts.notes)
    words = counts.text + (f"; {ignored} not counted" if ignored else "")
    if counts.bad or broken:
        name, reason = broken[0] if broken else (FOLDER, "")
        return Finding(PART, Verdict.BAD, f"{words}; {name}: {reason}", counts.notes)
    return Finding(PART, Verdict.GOOD if counts.good else Verdict.UNKNOWN, words, counts.notes)
