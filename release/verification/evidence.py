"""Whether the published scores follow from the published answers, and are of the published files."""

from __future__ import annotations

from pruner.errors import CheckFailedError
from release import reproduce
from release.evaluation.evidence import read_evidence
from release.hub.published import Published
from release.verdict import Finding, Pieces, Verdict

PART = "evidence"


def check_evidence(published: Published) -> Finding | None:
    """The finding on the evidence; None when the release was not evaluated."""
    section = published.manifest.content.eval
    if section is None:
        return None
    pieces = Pieces(PART, published.folder)
    shown = []
    for quant in section.quants:
        name = reproduce.evidence_name(quant)
        with pieces.checking(name):
            shown.append(_check(published, quant, name))
            pieces.add(name, Verdict.GOOD)
    return pieces.finding("; ".join(shown))


def _check(published: Published, quant: str, name: str) -> str:
    """Totals are recomputed on reading; here the run is tied to the release.

    Raises:
        InputError, CheckFailedError: it does not add up, or is a run of something else.
    """
    lock = published.lock
    evidence = read_evidence(published.path(name))
    if evidence.partial:
        raise CheckFailedError("is a partial run")
    if evidence.quant != quant:
        raise CheckFailedError(f"is a run of {evidence.quant}")
    if evidence.protocol_digest != lock.inputs.protocol:
        raise CheckFailedError(f"was made under protocol {evidence.protocol_digest}, the lock pins {lock.inputs.protocol}")
    digests = {file.sha256 for path, file in lock.outputs.items() if path.startswith("gguf/")}
    if evidence.model_sha256 not in digests:
        raise CheckFailedError(f"is a run of a file with SHA-256 {evidence.model_sha256}, which the lock does not list")
    if evidence.unverified:
        raise CheckFailedError(f"names what its servers did not show: {', '.join(evidence.unverified)}")
    return f"{quant}: {evidence.patched_correct} of {evidence.total}"
