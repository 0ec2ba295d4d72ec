"""`moe-release attest`: "I rebuilt this from base@rev and got these digests": proved here and signed."""

from __future__ import annotations

import platform
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError

from pruner.digest_cache import DigestCache
from pruner.errors import InputError, MoeReleaseError
from pruner.progress import SILENT, Progress
from pruner.proof import Proof
from release import __version__
from release.attestation.envelope import sign
from release.attestation.keyless import own_identity, own_signer, sign_keyless
from release.attestation.keys import Rebuilder, SigstoreIdentity, load_signer
from release.attestation.provenance import PROJECT, STATEMENT, subject
from release.documents import Document
from release.hub.proof import prove_release
from release.hub.published import Published, PublishedRepository, base_of, fetch, open_repository
from release.patterns import Sha256

PREDICATE = f"{PROJECT}/rebuild/v1"
FOLDER = "attestations"
SHORT = 12
"""Digits of key and commit in a statement's file name."""

Text = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


class Builder(Document):
    """Who says it, in their own words."""

    id: Text


class RebuiltFrom(Document):
    """What it was rebuilt from."""

    name: Text
    revision: Text | None = None
    drop_map: Sha256


class Rebuild(Document):
    """The predicate: what a rebuilder did and found."""

    builder: Builder
    platform: Text
    date: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$")]
    tool: Text
    target: Text
    base: RebuiltFrom
    rebuilt: dict[str, Sha256] = Field(description="SHA-256 of each shard that base and drop map make.")
    verdict: Literal["GOOD", "BAD"]
    reason: Annotated[str, StringConstraints(max_length=2000)] = ""


@dataclass(frozen=True)
class AttestRequest:
    """What to prove, and with whose key to say so."""

    repo: str
    revision: str
    key: Path | None
    """The private key; None signs with the machine's identity at Sigstore."""
    builder: str | None = None
    base: str | None = None
    workers: int | None = None
    endpoint: str | None = None
    token: str | None = None
    cache: Path | None = None
    """Folder that remembers digests of proved shards, so that a killed run goes on."""


@dataclass(frozen=True)
class Attestation:
    """A signed statement, and where it goes in the repository."""

    repo: str
    path: str
    statement: dict[str, Any]
    envelope: bytes
    signer: Rebuilder | SigstoreIdentity | None = None
    """Whose signature it is; None where a bundle does not say."""

    @property
    def verdict(self) -> str:
        """GOOD or BAD."""
        return str(self.statement["predicate"]["verdict"])


def attest(request: AttestRequest, *, progress: Progress = SILENT) -> Attestation:
    """Prove a published release by streaming its base, and sign what came out.

    Raises:
        InputError: the repository is no release of ours, or the key is none.
        UnavailableError: the base or the Hub cannot be reached, this base is not the pinned one, or the libraries are missing:
            then nothing is stated.
    """
    signer = load_signer(request.key) if request.key else None  # before the work, which may take hours
    keyid = str(signer.public_key.keyid) if signer else own_identity()
    repository = open_repository(request.repo, request.revision, endpoint=request.endpoint, token=request.token)
    statement = _proved(repository, request, request.builder or f"key {keyid[:SHORT]}", progress)
    path = f"{FOLDER}/{keyid[:SHORT]}-{repository.source.commit[:SHORT]}.json"
    if signer is None:
        bundle = sign_keyless(statement)
        return Attestation(request.repo, path, statement, bundle, own_signer(bundle, path))
    return Attestation(request.repo, path, statement, sign(statement, signer), Rebuilder("own", signer.public_key))


def _proved(repository: PublishedRepository, request: AttestRequest, builder: str, progress: Progress) -> dict[str, Any]:
    """The statement; errors do not name the folder, which is gone by then."""
    with tempfile.TemporaryDirectory(prefix="moe-release-attest-") as folder:
        try:
            published = fetch(repository, Path(folder))
            base = base_of(published, request.base)
            cache = DigestCache(request.cache) if request.cache else None
            proof = prove_release(published, base, workers=request.workers, progress=progress, cache=cache)
            return rebuild_statement(published, proof, builder=builder)
        except MoeReleaseError as error:
            raise type(error)(str(error).replace(f"{folder}/", f"{repository.source.label}/")) from None


def published_shards(repository: PublishedRepository) -> dict[str, str]:
    """SHA-256 of the shards by name: what a statement is about.

    Raises:
        InputError: there are none.
        UnavailableError: one cannot be read.
    """
    names = [name for name in repository.files if name.endswith(".safetensors") and "/" not in name]
    if not names:
        raise InputError(f"{repository.source.label}: has no .safetensors file")
    return {name: str(repository.sha256(name)) for name in names}


def rebuild_statement(published: Published, proof: Proof, *, builder: str) -> dict[str, Any]:
    """What the proof found, as an in-toto statement about the published shards.

    Raises:
        InputError: the builder's name cannot be used.
    """
    source, base = published.weights.source, published.manifest.content.base
    bad = [verdict for verdict in proof.verdicts if not verdict.good]
    from pruner.drop_map import read_drop_map
    from release.reproduce import DROP_MAP

    try:
        predicate = Rebuild(
            builder=Builder(id=builder),
            platform=f"{platform.system()} {platform.machine()}",
            date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            tool=f"moe-release {__version__}",
            target=f"hf://{source.repo}@{source.commit}",
            base=RebuiltFrom(name=base.label, revision=base.revision, drop_map=read_drop_map(published.path(DROP_MAP)).digest),
            rebuilt={verdict.name: verdict.rebuilt for verdict in proof.verdicts if verdict.rebuilt is not None},
            verdict="BAD" if bad else "GOOD",
            reason="; ".join(f"{verdict.name}: {verdict.reason}" for verdict in bad)[:2000],
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return {
        "_type": STATEMENT,
        "subject": subject(published_shards(published.weights)),
        "predicateType": PREDICATE,
        "predicate": predicate.model_dump(exclude_none=True),
    }
