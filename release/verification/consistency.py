"""Whether a release agrees with itself: lock, manifest, sums and drop map against each other and against the Hub's listing."""

from __future__ import annotations

import json

from pruner.drop_map import read_drop_map
from pruner.errors import CheckFailedError
from pruner.files import path_inside, sha256_file
from pruner.sources import read_small
from pruner.wording import counted
from release import reproduce
from release.attestation.provenance import model_files, provenance
from release.hub.published import Published, PublishedRepository
from release.lock import Lock
from release.references import parse_sums
from release.verdict import Finding, Pieces, Verdict

CARD = "README.md"


def check_consistency(published: Published) -> Finding:
    """The finding on `reproduce/` itself."""
    pieces = Pieces("consistency", published.folder)
    for name, check in {
        reproduce.MANIFEST: _manifest,
        reproduce.LOCK: _lock_names_the_manifest,
        reproduce.SUMS: _sums,
        reproduce.DROP_MAP: _drop_map,
        reproduce.PROTOCOL: _protocol,
        reproduce.PROVENANCE: _provenance,
    }.items():
        with pieces.checking(name):
            check(published)
            pieces.add(name, Verdict.GOOD)
    return pieces.finding("manifest, lock, sums, drop map and protocol agree")


def _manifest(published: Published) -> None:
    """It must be valid, and every file that it pins and that is published must have its digest."""
    for pinned in reproduce.named_files(published.manifest.content):
        published.manifest.file(pinned)


def _lock_names_the_manifest(published: Published) -> None:
    manifest, lock = published.manifest.content, published.lock
    if lock.name != manifest.name:
        raise CheckFailedError(f"is the lock of {lock.name}, the manifest is of {manifest.name}")
    base = manifest.base
    if (lock.inputs.base.name, lock.inputs.base.revision) != (base.label, base.revision):
        locked = f"{lock.inputs.base.name}@{lock.inputs.base.revision}"
        raise CheckFailedError(f"was made from {locked}, the manifest names {base.label}@{base.revision}")
    for pinned in reproduce.named_files(manifest):
        entry = lock.inputs.files.get(pinned.path)
        if entry and entry.sha256 != sha256_file(published.manifest.file(pinned)):
            raise CheckFailedError(f"{pinned.path} has another digest than the lock's inputs say")


def _sums(published: Published) -> None:
    listed = {name: file.sha256 for name, file in parse_sums(published.path(reproduce.SUMS)).items()}
    locked = {name: file.sha256 for name, file in published.lock.weights().items()}
    for name in sorted({*listed, *locked}):
        if listed.get(name) != locked.get(name):
            raise CheckFailedError(f"{name} is {listed.get(name, 'absent')} here and {locked.get(name, 'absent')} in the lock")


def _drop_map(published: Published) -> None:
    found = read_drop_map(published.path(reproduce.DROP_MAP))
    drop = {layer: list(ids) for layer, ids in found.drop.items()}
    if drop != published.lock.inputs.drop_map:
        layers = [layer for layer in drop if drop[layer] != (published.lock.inputs.drop_map or {}).get(layer)]
        raise CheckFailedError(f"drops other experts than the lock says, first in layer {layers[0] if layers else '?'}")


def _protocol(published: Published) -> None:
    from release.evaluation.protocol import load_protocol, protocol_digest

    section = published.manifest.content.eval
    if section is None:
        return
    named = path_inside(published.manifest.root, section.protocol)
    if sha256_file(named) != sha256_file(published.path(reproduce.PROTOCOL)):
        raise CheckFailedError(f"differs from {section.protocol}, which the manifest names")
    found = protocol_digest(load_protocol(named, published.manifest.root))
    if found != published.lock.inputs.protocol:
        raise CheckFailedError(f"has digest {found}, the lock pins {published.lock.inputs.protocol}")


def _provenance(published: Published) -> None:
    """It follows from manifest and lock; releases of old have none, or one about the weights alone.

    A subject that is not as locked is named.
    """
    path = published.path(reproduce.PROVENANCE)
    if not path.is_file():
        return
    data = path.read_bytes()
    made_from = published.manifest.content, sha256_file(published.path(reproduce.MANIFEST)), published.lock
    locked = model_files(published.lock)
    weights = {name: file.sha256 for name, file in published.lock.weights().items()}
    if data in (provenance(*made_from, locked), provenance(*made_from, weights)):
        return
    stated = _subjects(data)
    for name in sorted({*stated, *locked}):
        if stated.get(name) != locked.get(name):
            raise CheckFailedError(f"{name} is {stated.get(name, 'absent')} here and {locked.get(name, 'absent')} in the lock")
    raise CheckFailedError("is not the statement that manifest and lock make")


def _subjects(data: bytes) -> dict[str, str]:
    """SHA-256 by name of what a statement is about.

    Raises:
        CheckFailedError: it is no statement about files.
    """
    try:
        return {str(each["name"]): str(each["digest"]["sha256"]) for each in json.loads(data)["subject"]}
    except (ValueError, LookupError, TypeError, RecursionError):
        raise CheckFailedError("is not the statement that manifest and lock make") from None


def check_listing(lock: Lock, repository: PublishedRepository, part: str, names: dict[str, str]) -> Finding:
    """Every locked file is in the repository with its digest.

    Args:
        lock: what it must have.
        repository: where it must be.
        part: what the finding is called.
        names: path in the repository of each locked output.
    """
    pieces = Pieces(part)
    for output, name in names.items():
        with pieces.checking(name):
            found, wanted = repository.sha256(name), lock.outputs[output].sha256
            if found is None:
                pieces.add(name, Verdict.BAD, "is locked, and missing from the repository")
            elif found != wanted and not (name == CARD and _only_notes_differ(repository, wanted)):
                pieces.add(name, Verdict.BAD, f"has SHA-256 {found}, the lock pins {wanted}")
            else:
                pieces.add(name, Verdict.GOOD)
    return pieces.finding(f"{counted(len(names), 'file')} as locked")


def _only_notes_differ(repository: PublishedRepository, rendered_sha256: str) -> bool:
    """Whether a card is the locked one but for what people wrote between its markers."""
    from release.card.handwritten import LARGEST, only_parts_changed

    text = read_small(repository.source, CARD, "the card", LARGEST).decode("utf-8", errors="replace")
    return only_parts_changed(text, rendered_sha256)
