"""Whether the published weights are bytes of the pinned base: proved by streaming the base, writing nothing."""

from __future__ import annotations

from collections.abc import Iterable

from pruner.digest_cache import DigestCache
from pruner.errors import CheckFailedError, InputError, UnavailableError
from pruner.progress import SILENT, Progress
from pruner.wording import counted_that
from release.hub.proof import prove_release
from release.hub.published import Published, base_of
from release.hub.strangers import what_it_is
from release.verdict import Finding, Pieces, Verdict
from release.verification.names import known_names, weights_names

PART = "weights"


def check_weights(
    published: Published,
    base: str | None,
    *,
    workers: int | None = None,
    progress: Progress = SILENT,
    cache: DigestCache | None = None,
) -> Finding:
    """The finding on the weights.

    Args:
        published: the release.
        base: folder or hf:// address of the base; None takes the manifest's from the Hub.
        workers: parallel readers; the verdict does not depend on them.
        progress: where bytes are reported.
        cache: remembers digests that were computed here.
    """
    pieces = Pieces(PART)
    try:
        proof = prove_release(published, base_of(published, base), workers=workers, progress=progress, cache=cache)
    except UnavailableError as error:
        return Finding(PART, Verdict.UNKNOWN, published.shown(error))
    except (InputError, CheckFailedError) as error:
        return Finding(PART, Verdict.BAD, published.shown(error))
    for verdict in proof.verdicts:
        pieces.add(verdict.name, Verdict.GOOD if verdict.good else Verdict.BAD, verdict.reason or "")
    _add_planted(published, proof.unplanned, pieces)
    return pieces.finding(f"{counted_that(len(proof.verdicts), 'file', 'are')} what {proof.base} and the drop map make")


def _add_planted(published: Published, unplanned: Iterable[str], pieces: Pieces) -> None:
    """BAD for what a loader would read and no build writes, even where the publisher's lock lists it among the weights."""
    names = weights_names(published.lock)
    known = known_names(published.manifest) | {name for path, name in names.items() if not path.startswith("weights/")}
    in_folders = [name for path, name in names.items() if path.startswith("weights/") and "/" in name]
    for name in sorted({*unplanned, *in_folders} - known):
        if what := what_it_is(name):
            pieces.add(
                name, Verdict.BAD, f"no build from the base makes it, and a loader or a reader would take it for its {what}"
            )
