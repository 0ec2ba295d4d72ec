"""Whether a release agrees with itself: lock, manifest, sums and drop map against each other and against the Hub's listing."""

from __future__ import annotations

import json

from pruner.drop_map import read_drop_map
from pruner.errors import CheckFailedError, UnavailableError
from pruner.files import path_inside, sha256_file
from release import __version__, reproduce
from release.attestation.provenance import model_files, provenance
from release.hub.published import Published
from release.references import parse_sums
from release.verdict import Finding, Pieces, Verdict


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
        reproduce.README: _page,
    }.items():
        with pieces.checking(name):
            check(published)
            pieces.add(name, Verdict.GOOD)
    return pieces.finding("manifest, lock, sums, drop map and protocol agree")


def _manifest(published: Published) -> None:
    """It must be valid, and every file that it pins and that is published must have its digest."""
    for pinned in reproduce.named_files(published.manifest.content):
        published.manifest.file(pinned)


def _page(published: Published) -> None:
    """Its commands are typed by whoever trusts it."""
    path, manifest = published.path(reproduce.README), published.manifest.content
    folder = manifest.card.templates
    if folder is not None and f"{folder}/{reproduce.TEMPLATE}" in published.lock.inputs.files:
        raise UnavailableError("is made with the release's own template, which is not run here; read it before you trust it")
    if path.is_file() and path.read_bytes() == reproduce.page(manifest).encode():
        return
    made_with = published.lock.inputs.tools.get("moe-release")
    if made_with != __version__:
        raise UnavailableError(f"is not the page of moe-release {__version__}; the release was made by {made_with}")
    raise CheckFailedError("is not the page that the manifest gives")


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
    prune = published.manifest.content.prune
    pinned = prune.drop_map if prune else None
    if pinned and (layer := read_drop_map(published.manifest.file(pinned)).first_difference(found)) is not None:
        raise CheckFailedError(f"drops other experts than the manifest's {pinned.path}, first in layer {layer}")
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
    """It follows from manifest and lock; releases of old have none, or one about the weights alone or without byproducts.

    A subject that is not as locked is named.
    """
    path = published.path(reproduce.PROVENANCE)
    if not path.is_file():
        return
    data = path.read_bytes()
    made_from = published.manifest.content, sha256_file(published.path(reproduce.MANIFEST)), published.lock
    locked = model_files(published.lock)
    weights = {name: file.sha256 for name, file in published.lock.weights().items()}
    if any(data == provenance(*made_from, files, byproducts=each) for files in (locked, weights) for each in (True, False)):
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
