"""Verification as one list of checks, each with its own verdict."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pruner.checkpoint import open_checkpoint
from pruner.digest_cache import DigestCache
from pruner.errors import CheckFailedError, InputError, UnavailableError
from pruner.progress import SILENT, Progress
from pruner.sources import HUB_PREFIX, open_source
from release.attestation.keys import require_public_key
from release.hub.published import Published, fetch, open_repository
from release.verdict import UNUSABLE, Finding, Verdict, Verification, unusable
from release.verification.attestations import check_attestations
from release.verification.card import check_card
from release.verification.consistency import check_consistency
from release.verification.evidence import check_evidence
from release.verification.exam import check_exam
from release.verification.ggufs import check_ggufs
from release.verification.listing import check_files
from release.verification.request import Request
from release.verification.signature import check_signature
from release.verification.weights import check_weights

OPTIONAL = ("attestations", "signature")
"""Parts whose absence is worth a line."""


def verify_published(request: Request, *, progress: Progress = SILENT) -> Verification:
    """Verify a release from the Hub; only `reproduce/` is copied, to a temporary folder.

    Raises:
        InputError: the repository is no release of ours, the given base no checkpoint, or the signer's file no key.
        UnavailableError: it cannot be reached.
    """
    if request.signer is not None:
        require_public_key(request.signer)
    if request.base is not None and not request.base.startswith(HUB_PREFIX):  # a base on the Hub is opened once, for the proof
        open_checkpoint(open_source(request.base))
    repository = open_repository(request.repo, request.revision, endpoint=request.endpoint, token=request.token)
    if request.work is not None:
        request.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="moe-release-verify-") as folder:
        published = fetch(repository, Path(folder))
        found: dict[str, Finding] = {}
        checks: dict[str, Callable[[], Finding | None]] = {
            "consistency": partial(check_consistency, published),
            "files": partial(check_files, published),
            "weights": partial(_weights, published, request, progress),
            "ggufs": partial(check_ggufs, published, request, progress=progress),
            "evidence": partial(check_evidence, published),
            "card": lambda: _card(published, request, found.get("weights")),
            "exam": partial(_exam, published, request, progress),
            "attestations": partial(check_attestations, published),
            "signature": partial(check_signature, published, request.signer),
        }
        for part, check in checks.items():
            if finding := _guarded(part, published, check):
                found[part] = finding
        if (exam := found.get("exam")) and exam.verdict is Verdict.GOOD:
            found["evidence"] = _guarded("evidence", published, partial(_repeated, published)) or found["evidence"]
    absent = tuple(part for part in OPTIONAL if part not in found)
    return Verification(f"hf://{request.repo}", repository.source.commit, tuple(found.values()), absent)


def _guarded(part: str, published: Published, check: Callable[[], Finding | None]) -> Finding | None:
    """A part that cannot be checked at all, as a finding: one spoiled file leaves the verdicts on the others."""
    try:
        return check()
    except (CheckFailedError, InputError) as error:
        return Finding(part, Verdict.BAD, published.shown(error))
    except UnavailableError as error:
        return Finding(part, Verdict.UNKNOWN, published.shown(error))
    except UNUSABLE as error:
        return Finding(part, Verdict.BAD, unusable(error))


def _repeated(published: Published) -> Finding | None:
    """The finding on the evidence, now that the exam was taken again: of the first quant, as it is there."""
    section = published.manifest.content.eval
    return check_evidence(published, repeated=section.quants[0]) if section else None


def _weights(published: Published, request: Request, progress: Progress) -> Finding:
    cache = DigestCache(request.cache) if request.cache else None
    return check_weights(published, request.base, workers=request.workers, progress=progress, cache=cache)


def _card(published: Published, request: Request, weights: Finding | None) -> Finding:
    """The finding on the card, whose numbers come from the base as well: of a wrong one, nothing follows."""
    if request.base is not None and weights and weights.verdict is Verdict.UNKNOWN:
        return Finding("card", Verdict.UNKNOWN, weights.reason)
    return check_card(published, request)


def _exam(published: Published, request: Request, progress: Progress) -> Finding | None:
    return check_exam(published, request, progress=progress) if request.exam else None
