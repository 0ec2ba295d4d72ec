"""Whether the repositories hold what the lock lists, and nothing else that a loader would take for part of the model."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pruner.errors import CheckFailedError
from pruner.sources import read_small
from pruner.wording import counted, some
from release import reproduce
from release.hub.names import gguf_names, known_names, weights_names
from release.hub.published import Published, PublishedRepository
from release.hub.strangers import what_it_is
from release.verdict import Finding, Pieces, Verdict

CARD = "README.md"
MOST_SHOWN = 5
LARGEST_SUMS = 1 << 20


def check_files(published: Published) -> Finding:
    """The weights repository holds every file that the lock lists for it, and no stranger's that a loader would read."""
    names = weights_names(published.lock)
    pieces = Pieces("files", published.folder)
    _check_locked(published, published.weights, names, pieces)
    known: set[str] = set()
    with pieces.checking(reproduce.MANIFEST):
        known = known_names(published.manifest)
    notes = _check_strangers(published.weights, {*names.values(), *known}, pieces) if known else ""
    return pieces.finding(f"{counted(len(names), 'file')} as locked{notes}")


def check_gguf_files(published: Published, repository: PublishedRepository, part: str) -> Finding:
    """The same of the GGUF repository, whose list of digests must be the lock's."""
    names = gguf_names(published.lock)
    pieces = Pieces(part, published.folder)
    _check_locked(published, repository, names, pieces)
    if reproduce.SUMS in repository.files:
        with pieces.checking(reproduce.SUMS):
            _require_sums(published, repository)
            pieces.add(reproduce.SUMS, Verdict.GOOD)
    notes = _check_strangers(repository, {*names.values(), reproduce.SUMS}, pieces)
    return pieces.finding(f"{counted(len(names), 'file')} as locked{notes}")


def _check_locked(published: Published, repository: PublishedRepository, names: Mapping[str, str], pieces: Pieces) -> None:
    """Every locked file is in the repository with its digest; `names` are the paths there of locked outputs."""
    for output, name in names.items():
        with pieces.checking(name):
            found, wanted = repository.sha256(name), published.lock.outputs[output].sha256
            if found is None:
                pieces.add(name, Verdict.BAD, "is locked, and missing from the repository")
            elif found != wanted and not (name == CARD and _only_notes_differ(repository, wanted)):
                pieces.add(name, Verdict.BAD, f"has SHA-256 {found}, the lock pins {wanted}")
            else:
                pieces.add(name, Verdict.GOOD)


def _only_notes_differ(repository: PublishedRepository, rendered_sha256: str) -> bool:
    """Whether a card is the locked one but for what people wrote between its markers."""
    from release.card.handwritten import LARGEST, only_parts_changed

    text = read_small(repository.source, CARD, "the card", LARGEST).decode("utf-8", errors="replace")
    return only_parts_changed(text, rendered_sha256)


def _require_sums(published: Published, repository: PublishedRepository) -> None:
    data = read_small(repository.source, reproduce.SUMS, "the list of digests", LARGEST_SUMS)
    if sorted(data.splitlines()) != sorted(reproduce.sums(published.lock.quants()).splitlines()):
        raise CheckFailedError("is not the list of digests that the lock gives")


def _check_strangers(repository: PublishedRepository, known: Collection[str], pieces: Pieces) -> str:
    """Files that the release does not know: BAD when a loader would read them; the others are named in what is returned."""
    strangers = [path for path in repository.files if path not in known and not path.startswith(reproduce.JOINING)]
    harmless = []
    for path in strangers:
        if (what := what_it_is(path)) is None:
            harmless.append(path)
        else:
            pieces.add(path, Verdict.BAD, f"is not of this release, and a loader or a reader would take it for its {what}")
    return f"; not of this release: {some(harmless, MOST_SHOWN)}" if harmless else ""
