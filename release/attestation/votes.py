"""Counting: who rebuilt a release, by statements whose signatures hold under the keys that its repository lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from pruner.errors import CheckFailedError, InputError
from pruner.files import parse_json, sha256_bytes
from pruner.sources import read_small
from release.attestation.envelope import key_ids, verified_statement
from release.attestation.keyless import claimed_identities, is_bundle, verified_bundle
from release.attestation.keys import Rebuilder, read_rebuilders
from release.attestation.model_signature import NAME, PUBLIC_KEY
from release.attestation.rebuild import FOLDER, PREDICATE, Rebuild, published_shards
from release.hub.published import Published, PublishedRepository
from release.reproduce import REBUILDERS
from release.verdict import Verdict

STATEMENT_LIMIT = 1 << 20
MOST_STATEMENTS = 1000
SIGNATURE_LIMIT = 16 << 20


@dataclass(frozen=True)
class Counts:
    """Parties by name that rebuilt the release: with its digests, or with others.

    `notes` has every statement, its file, what it counts as, and why; UNKNOWN ones are not counted.
    """

    good: tuple[str, ...] = ()
    bad: tuple[str, ...] = ()
    notes: tuple[tuple[str, Verdict, str], ...] = ()

    @property
    def text(self) -> str:
        """In words."""
        parties = "party" if len(self.good) == 1 else "parties"
        report = "reports" if len(self.bad) == 1 else "report"
        return f"rebuilt by {len(self.good)} independent {parties}, {len(self.bad)} {report} BAD"


@dataclass(frozen=True)
class _Vote:
    keyid: str
    name: str
    date: str
    good: bool


def verified_rebuilds(published: Published) -> Counts:
    """Statements below `attestations/` on this very commit, verified against `reproduce/rebuilders.json`.

    A key has one vote: its latest statement about the published shards.  The publisher's own key has none.

    Raises:
        InputError: the list of rebuilders cannot be used, or there are more statements than anybody reads.
        UnavailableError: a file cannot be read, or the libraries are missing.
    """
    repository = published.weights
    names = [name for name in repository.files if name.startswith(f"{FOLDER}/")]
    if not names:
        return Counts()
    if len(names) > MOST_STATEMENTS:
        raise InputError(f"{FOLDER}/: {len(names)} files are more than {MOST_STATEMENTS}")
    listed = published.path(REBUILDERS)
    keys = read_rebuilders(listed.read_bytes(), REBUILDERS) if listed.is_file() else ()
    shards, publisher = published_shards(repository), publisher_hint(published)
    votes: list[_Vote] = []
    notes = []
    for name in names:
        try:
            vote = _vote(repository, name, keys, shards, publisher)
        except (InputError, CheckFailedError) as error:
            reason = str(error).removeprefix(f"{name}: ")
            notes.append((name, Verdict.BAD if isinstance(error, CheckFailedError) else Verdict.UNKNOWN, reason))
        else:
            votes.append(vote)
            notes.append((name, Verdict.GOOD if vote.good else Verdict.BAD, f"{vote.name} reports {_word(vote)}"))
    latest = {vote.keyid: vote for vote in sorted(votes, key=lambda vote: (vote.date, not vote.good))}
    good, bad = ([vote.name for vote in latest.values() if vote.good is wanted] for wanted in (True, False))
    return Counts(tuple(sorted(good)), tuple(sorted(bad)), tuple(notes))


def _word(vote: _Vote) -> str:
    return "GOOD" if vote.good else "BAD"


def _vote(
    repository: PublishedRepository, name: str, keys: tuple[Rebuilder, ...], shards: dict[str, str], publisher: str | None
) -> _Vote:
    """What one statement says.

    Raises:
        CheckFailedError: its signature does not hold, or it contradicts itself.
        InputError: it is not counted, with the reason.
    """
    data = read_small(repository.source, name, "an attestation", STATEMENT_LIMIT)
    key, statement = _by_identity(data, name, keys) if is_bundle(data, name) else _by_key(data, name, keys)
    if publisher is not None and key.hint == publisher:
        raise InputError(f"{name}: signed with the publisher's own key; not counted")
    rebuild = _rebuild(statement, name)
    if statement_subject(statement) != shards:
        raise InputError(f"{name}: {key.name} speaks of {rebuild.target}, whose shards are others; not counted")
    shown = {file: rebuild.rebuilt.get(file) for file in shards}
    if rebuild.verdict == "GOOD" and shown != shards:
        raise CheckFailedError(f"{name}: {key.name} says GOOD and lists other digests than the published ones; not counted")
    return _Vote(key.keyid, key.name, rebuild.date, rebuild.verdict == "GOOD")


def _by_key(data: bytes, name: str, keys: tuple[Rebuilder, ...]) -> tuple[Rebuilder, dict[str, Any]]:
    said = key_ids(data, name)
    key = next((each for each in keys if each.key and each.keyid in said), None)
    if key is None:
        known = f"signed with key {said[0][:12]}, which" if said else "has no signature of a key that"
        raise InputError(f"{name}: {known} {REBUILDERS} does not list; not counted")
    return key, verified_statement(data, key, name)


def _by_identity(data: bytes, name: str, keys: tuple[Rebuilder, ...]) -> tuple[Rebuilder, dict[str, Any]]:
    """The statement of a Sigstore bundle, whose identity stands in its certificate.

    Raises:
        CheckFailedError: it says that it is of a listed identity, and does not hold.
        InputError: it is of no listed one.
    """
    claimed = claimed_identities(data, name)
    listed = [(key, key.identity) for key in keys if key.identity is not None and key.identity.identity in claimed]
    for number, (key, identity) in enumerate(listed, 1):
        try:
            return key, verified_bundle(data, identity, name)
        except CheckFailedError:  # an identity may be listed with several issuers
            if number == len(listed):
                raise
    raise InputError(f"{name}: is a Sigstore bundle of no identity that {REBUILDERS} lists; not counted")


def _rebuild(statement: dict[str, Any], name: str) -> Rebuild:
    if statement.get("predicateType") != PREDICATE:
        raise InputError(f"{name}: states {str(statement.get('predicateType'))[:100]!r}, which is no rebuild; not counted")
    try:
        return Rebuild.model_validate(statement["predicate"])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(f"{name}: {'.'.join(map(str, first['loc']))}: {first['msg']}; not counted") from None


def statement_subject(statement: dict[str, Any]) -> dict[str, str]:
    """SHA-256 by name of what a statement is about; a name that stands twice keeps none."""
    found: dict[str, str] = {}
    for each in statement["subject"]:
        name = str(each.get("name"))
        found[name] = "" if name in found else str(each["digest"].get("sha256", ""))
    return found


def publisher_hint(published: Published) -> str | None:
    """SHA-256 of the publisher's public key in PEM, as far as it is known: published, or named by `model.sig`."""
    repository, key = published.weights, published.path(PUBLIC_KEY)
    if key.is_file():
        return sha256_bytes(key.read_bytes())
    if NAME not in repository.files:
        return None
    data = read_small(repository.source, NAME, "the signature", SIGNATURE_LIMIT)
    try:
        hint = parse_json(data, NAME, "the signature")["verificationMaterial"]["publicKey"]["hint"]
    except (InputError, KeyError, TypeError):
        return None
    return hint if isinstance(hint, str) else None
