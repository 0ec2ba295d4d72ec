"""Whether the published scores follow from the published answers, and are of the published files."""

from __future__ import annotations

from pruner.errors import CheckFailedError
from pruner.files import path_inside
from release import reproduce
from release.evaluation.evidence import Evidence, read_evidence, require_complete
from release.evaluation.gates import require_gates
from release.evaluation.protocol import Protocol, load_protocol
from release.evaluation.timing import longest_wait, misfits, read_timing
from release.hub.published import Published
from release.lock import timing_key
from release.verdict import Finding, Pieces, Verdict

PART = "evidence"


def check_evidence(published: Published, *, repeated: str | None = None) -> Finding | None:
    """The finding on the evidence and its seconds; None when the release was not evaluated.

    Args:
        published: the release.
        repeated: the quant whose exam was taken again here, and gave the same answers: what nobody saw of the servers that gave
            them first is proved with that.
    """
    section = published.manifest.content.eval
    if section is None:
        return None
    pieces = Pieces(PART, published.folder)
    shown = []
    protocol: Protocol | None = None
    with pieces.checking(section.protocol):
        protocol = load_protocol(path_inside(published.manifest.root, section.protocol), published.manifest.root)
    if protocol is None:
        return pieces.finding("")
    for quant in section.quants:
        name, timing = reproduce.evidence_name(quant), reproduce.timing_name(quant)
        evidence = None
        with pieces.checking(name):
            evidence = _checked(published, protocol, quant, name)
            shown.append(f"{quant}: {evidence.patched_correct} of {evidence.total}")
            pieces.add(name, *_origin(evidence, repeated, section.quants[0]))
        if evidence and _has_timing(published, quant):
            with pieces.checking(timing):
                _check_timing(published, evidence, protocol)
                pieces.add(timing, Verdict.GOOD)
    return pieces.finding("; ".join(shown))


def _checked(published: Published, protocol: Protocol, quant: str, name: str) -> Evidence:
    """The evidence of a quant.  Totals are recomputed on reading; here the run is tied to the release.

    Raises:
        InputError, CheckFailedError: it does not add up, is not of all questions, or is a run of something else.
    """
    lock = published.lock
    evidence = read_evidence(published.path(name))
    if evidence.quant != quant:
        raise CheckFailedError(f"is a run of {evidence.quant}")
    if evidence.protocol_digest != lock.inputs.protocol:
        raise CheckFailedError(f"was made under protocol {evidence.protocol_digest}, the lock pins {lock.inputs.protocol}")
    if evidence.model_sha256 != (locked := lock.quant_digest(quant)):
        raise CheckFailedError(f"is a run of a model with SHA-256 {evidence.model_sha256}, the lock's {quant} has {locked}")
    require_complete(evidence, protocol, "the run")
    require_gates(protocol, evidence.questions)
    return evidence


def _origin(evidence: Evidence, repeated: str | None, first: str) -> tuple[Verdict, str]:
    """What can be known of the servers that answered: nobody saw which model file one elsewhere had loaded."""
    if not evidence.unverified:
        return Verdict.GOOD, ""
    if evidence.quant == repeated:
        return Verdict.GOOD, "its servers ran elsewhere; the exam taken again here gives every answer the same"
    unseen = ", ".join(evidence.unverified)
    remedy = "takes the exam again" if evidence.quant == first else f"takes the exam of {first} again, and of no other quant"
    return Verdict.UNKNOWN, f"its servers ran elsewhere, and nobody saw their {unseen}; --exam {remedy}"


def _has_timing(published: Published, quant: str) -> bool:
    """Whether seconds are published of a run; releases from before they were have none, and may have that name for others."""
    name = reproduce.timing_name(quant)
    named = {f"{reproduce.FOLDER}/{file.path}" for file in reproduce.named_files(published.manifest.content)}
    return _locked(published, quant) or (published.path(name).is_file() and name not in named)


def _locked(published: Published, quant: str) -> bool:
    return timing_key(quant) in published.lock.outputs


def _check_timing(published: Published, evidence: Evidence, protocol: Protocol) -> None:
    """The seconds are of the questions of their evidence, and such as the protocol's time-out allows.

    Raises:
        InputError, CheckFailedError: they are not, or nobody locked them.
    """
    if not _locked(published, evidence.quant):
        raise CheckFailedError("stands there, and the lock does not list it")
    timing = read_timing(published.path(reproduce.timing_name(evidence.quant)))
    if problem := next(misfits(timing, evidence, longest_wait(protocol)), None):
        raise CheckFailedError(f"does not fit its evidence: {problem}")
