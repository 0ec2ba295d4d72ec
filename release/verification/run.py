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
from release.verdict import Finding, Verdict, Verification
from release.verification.attestations import check_attestations
from release.verification.card import check_card
from release.verification.consistency import check_consistency, check_listing
from release.verification.evidence import check_evidence
from release.verification.exam import check_exam
from release.verification.ggufs import check_ggufs
from release.verification.names import weights_names
from release.verification.request import Request
from release.verification.signature import check_signature
from release.verification.weights import check_weights

OPTIONAL = ("attestations",)
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
        checks: dict[str, Callable[[], Finding | None]] = {
            "consistency": partial(check_consistency, published),
            "files": partial(check_files, published),
            "weights": partial(_weights, published, request, progress),
            "ggufs": partial(check_ggufs, published, request, progress=progress),
            "evidence": partial(check_evidence, published),
            "card": partial(check_card, published, request),
            "exam": partial(_exam, published, request, progress),
            "attestations": partial(check_attestations, published),
            "signature": partial(check_signature, published, request.signer),
        }
        findings = [_guarded(part, published, check) for part, check in checks.items()]
    found = {part: finding for part, finding in zip(checks, findings, strict=True) if finding}
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


def check_files(published: Published) -> Finding:
    """Every file that the lock lists for the weights repository is there as locked."""
    return check_listing(published.lock, published.weights, "files", weights_names(published.lock))


def _weights(published: Published, request: Request, progress: Progress) -> Finding:
    cache = DigestCache(request.cache) if request.cache else None
    return check_weights(published, request.base, workers=request.workers, progress=progress, cache=cache)


def _exam(published: Published, request: Request, progress: Progress) -> Finding | None:
    return check_exam(published, request, progress=progress) if request.exam else None
