"""`moe-release attest`: "I rebuilt this from base@rev and got these digests": proved here, signed, proposed."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError

from pruner.digest_cache import DigestCache
from pruner.errors import CheckFailedError, InputError
from pruner.files import sha256_bytes, write_atomic
from pruner.progress import SILENT, Progress
from pruner.proof import Proof
from release import __version__
from release.attestation.envelope import sign, verified_statement
from release.attestation.keyless import own_identity, sign_keyless
from release.attestation.keys import Rebuilder, load_signer
from release.attestation.provenance import PROJECT, STATEMENT, subject
from release.documents import Document
from release.hub.proof import prove_release
from release.hub.published import Published, PublishedRepository, base_of, fetch, open_repository
from release.patterns import Sha256

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from release.hub.pull_request import Proposal

PREDICATE = f"{PROJECT}/rebuild/v1"
FOLDER = "attestations"
PASSING = ("date", "platform", "tool")
"""What another rebuild with the same result says otherwise."""
LARGEST = 1 << 20
"""Bytes of a standing statement that are read at most."""
SHORT = 12
"""Digits of key and commit in a statement's file name."""
MESSAGE = "attestation: rebuilt by {builder}"

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
    key: Rebuilder | None = None
    """Whose signature it is, where it is a key's."""

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
    with tempfile.TemporaryDirectory(prefix="moe-release-attest-") as folder:
        published = fetch(repository, Path(folder))
        base = base_of(published, request.base)
        cache = DigestCache(request.cache) if request.cache else None
        proof = prove_release(published, base, workers=request.workers, progress=progress, cache=cache)
        statement = rebuild_statement(published, proof, builder=request.builder or f"key {keyid[:SHORT]}")
    path = f"{FOLDER}/{keyid[:SHORT]}-{repository.source.commit[:SHORT]}.json"
    if signer is None:
        return Attestation(request.repo, path, statement, sign_keyless(statement))
    return Attestation(request.repo, path, statement, sign(statement, signer), Rebuilder("own", signer.public_key))


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


def propose_attestation(
    made: Attestation,
    *,
    endpoint: str | None = None,
    token: str | None = None,
    progress: Progress = SILENT,
    pause: Callable[[float], None] = time.sleep,
) -> Proposal | None:
    """Propose the statement as a pull request to the repository; None when the branch has it already.

    The same said by the same key stands, whenever and on whatever machine it was said: who rebuilds every week asks once.

    Raises:
        UnavailableError: the Hub cannot be reached, or takes no pull request from this token.
        CheckFailedError: the branch moved meanwhile, or the Hub does not hold what was sent.
    """
    from release.hub.commit import Job, operations
    from release.hub.pull_request import propose
    from release.hub.remote import hub_api, hub_errors, quiet_client, remote_tree

    api = hub_api(endpoint, token)
    message = MESSAGE.format(builder=made.statement["predicate"]["builder"]["id"])
    with tempfile.TemporaryDirectory() as folder, hub_errors(api.endpoint, f"propose to {made.repo}"), quiet_client(progress):
        local = Path(folder) / "attestation.json"
        envelope = _standing(api, made, message, pause) or made.envelope
        write_atomic(local, envelope)
        job = Job(api, made.repo, {made.path: local}, {made.path: sha256_bytes(envelope)}, pause)
        plan = job.plan(remote_tree(api, made.repo))
        if plan.settled:
            return None
        return propose(job, plan, lambda revision: operations(job, plan, progress, revision), message)


def _standing(api: HfApi, made: Attestation, title: str, pause: Callable[[float], None]) -> bytes | None:
    """The envelope of the same statement by the same key in the branch, or in a pull request of ours that waits."""
    from release.hub.pull_request import undecided
    from release.hub.remote import remote_tree
    from release.hub.small_files import remote_bytes

    waiting = (tree for _, tree in undecided(api, made.repo, title, pause))
    for tree in (remote_tree(api, made.repo), *waiting):
        try:
            data = remote_bytes(api, made.repo, tree, made.path, LARGEST)
        except CheckFailedError:
            continue
        if data is not None and _says_the_same(data, made):
            return data
    return None


def _says_the_same(data: bytes, made: Attestation) -> bool:
    if made.key is None:
        return False
    try:
        statement = verified_statement(data, made.key, made.path)
    except (CheckFailedError, InputError):
        return False
    return _bare(statement) == _bare(made.statement)


def _bare(statement: dict[str, Any]) -> dict[str, Any]:
    """A statement without when, where and with which version it was made."""
    predicate = statement.get("predicate")
    kept = {key: value for key, value in predicate.items() if key not in PASSING} if isinstance(predicate, dict) else predicate
    return {**statement, "predicate": kept}
