"""Verification as one list of checks, each with its own verdict."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from pruner.errors import InputError, UnavailableError
from pruner.progress import SILENT, Progress
from release import reproduce
from release.lock import Lock
from release.verification.consistency import check_consistency, check_listing
from release.verification.evidence import check_evidence
from release.verification.published import Published, PublishedRepository, fetch, open_repository
from release.verification.verdict import Finding, Verdict, Verification
from release.verification.weights import check_weights


@dataclass(frozen=True)
class Request:
    """What to verify, and with what."""

    repo: str
    revision: str = "main"
    base: str | None = None
    workers: int | None = None
    endpoint: str | None = None
    token: str | None = None


def verify_published(request: Request, *, progress: Progress = SILENT) -> Verification:
    """Verify a release from the Hub; only `reproduce/` is copied, to a temporary folder.

    Raises:
        InputError: the repository is no release of ours.
        UnavailableError: it cannot be reached.
    """
    repository = open_repository(request.repo, request.revision, endpoint=request.endpoint, token=request.token)
    with tempfile.TemporaryDirectory(prefix="moe-release-verify-") as folder:
        published = fetch(repository, Path(folder))
        findings = [
            check_consistency(published),
            check_files(published),
            check_weights(published, request.base, workers=request.workers, progress=progress),
            *_gguf(published, request),
            check_evidence(published),
        ]
    return Verification(f"hf://{request.repo}", repository.source.commit, tuple(each for each in findings if each))


def check_files(published: Published) -> Finding:
    """Every file that the lock lists for the weights repository is there as locked."""
    return check_listing(published.lock, published.weights, "files", weights_names(published.lock))


def weights_names(lock: Lock) -> dict[str, str]:
    """Path in the weights repository of each locked output that belongs there."""
    names = {path: path.removeprefix("weights/") for path in lock.outputs if path.startswith("weights/")}
    fixed = {"card/README.md": "README.md", "card/claims.json": reproduce.CLAIMS, "drop_map.json": reproduce.DROP_MAP}
    names |= {path: name for path, name in fixed.items() if path in lock.outputs}
    for path in lock.outputs:
        parts = path.split("/")
        if parts[0] == "eval" and parts[-1] == "evidence.json":
            names[path] = reproduce.evidence_name(parts[1])
    return names


def gguf_names(lock: Lock) -> dict[str, str]:
    """Path in the GGUF repository of each locked output that belongs there."""
    names = {path: path.split("/", 1)[1] for path in lock.outputs if path.startswith(("gguf/", "imatrix/"))}
    if "card/README.gguf.md" in lock.outputs:
        names["card/README.gguf.md"] = "README.md"
    return names


def _gguf(published: Published, request: Request) -> list[Finding]:
    """The finding on the GGUF repository, when the release has one."""
    publish = published.manifest.content.publish
    if publish is None or publish.gguf is None:
        return []
    try:
        repository = _gguf_repository(publish.gguf, publish.tag, request)
    except (InputError, UnavailableError) as error:
        return [Finding("ggufs", Verdict.UNKNOWN, str(error))]
    return [check_listing(published.lock, repository, "ggufs", gguf_names(published.lock))]


def _gguf_repository(repo: str, tag: str | None, request: Request) -> PublishedRepository:
    return open_repository(repo, tag or "main", endpoint=request.endpoint, token=request.token)
