"""Verification as one list of checks, each with its own verdict."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pruner.digest_cache import DigestCache
from pruner.errors import CheckFailedError, InputError, UnavailableError
from pruner.progress import SILENT, Progress
from release.attestation.keys import require_public_key
from release.verification.attestations import check_attestations
from release.verification.card import check_card
from release.verification.consistency import check_consistency, check_listing
from release.verification.evidence import check_evidence
from release.verification.exam import ExamRequest, check_exam
from release.verification.ggufs import GgufRequest, check_ggufs
from release.verification.names import weights_names
from release.verification.published import Published, fetch, open_repository
from release.verification.signature import check_signature
from release.verification.verdict import Finding, Verdict, Verification
from release.verification.weights import check_weights

OPTIONAL = ("attestations",)
"""Parts whose absence is worth a line."""


@dataclass(frozen=True)
class Request:
    """What to verify, and with what."""

    repo: str
    revision: str = "main"
    base: str | None = None
    workers: int | None = None
    endpoint: str | None = None
    token: str | None = None
    signer: Path | None = None
    """The publisher's public key, from a place that one trusts."""
    requantize: bool = False
    llama_cpp: Path | None = None
    work: Path | None = None
    """Folder for what needs a disk; default: the system's temporary one."""
    exam: bool = False
    exam_data: Path | None = None
    """The exam's questions, when they are not published."""
    cache: Path | None = None
    """Folder that remembers digests of proved shards, so that a killed run goes on."""


def verify_published(request: Request, *, progress: Progress = SILENT) -> Verification:
    """Verify a release from the Hub; only `reproduce/` is copied, to a temporary folder.

    Raises:
        InputError: the repository is no release of ours, or the signer's file no key.
        UnavailableError: it cannot be reached.
    """
    if request.signer is not None:
        require_public_key(request.signer)
    repository = open_repository(request.repo, request.revision, endpoint=request.endpoint, token=request.token)
    if request.work is not None:
        request.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="moe-release-verify-") as folder:
        published = fetch(repository, Path(folder))
        checks: dict[str, Callable[[], Finding | None]] = {
            "consistency": partial(check_consistency, published),
            "files": partial(check_files, published),
            "weights": partial(_weights, published, request, progress),
            "ggufs": partial(check_ggufs, published, _gguf_request(request), progress=progress),
            "evidence": partial(check_evidence, published),
            "card": partial(check_card, published, _gguf_request(request)),
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
    if not request.exam:
        return None
    exam = ExamRequest(
        work=request.work,
        data=request.exam_data,
        llama_cpp=request.llama_cpp,
        revision=request.revision,
        endpoint=request.endpoint,
        token=request.token,
    )
    return check_exam(published, exam, progress=progress)


def _gguf_request(request: Request) -> GgufRequest:
    return GgufRequest(
        base=request.base,
        requantize=request.requantize,
        llama_cpp=request.llama_cpp,
        work=request.work,
        workers=request.workers,
        revision=request.revision,
        endpoint=request.endpoint,
        token=request.token,
    )
