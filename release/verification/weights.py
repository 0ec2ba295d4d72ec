"""Whether the published weights are bytes of the pinned base: proved by streaming the base, writing nothing."""

from __future__ import annotations

from pruner.digest_cache import DigestCache
from pruner.errors import CheckFailedError, InputError, UnavailableError
from pruner.progress import SILENT, Progress
from pruner.wording import counted_that
from release.hub.proof import beside_the_weights, prove_release
from release.hub.published import Published, base_of
from release.hub.strangers import what_it_is
from release.verdict import Finding, Pieces, Verdict

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
    known = beside_the_weights(published)
    for name in proof.unplanned:  # also what the publisher's lock lists among the weights
        if name not in known and (what := what_it_is(name)):
            pieces.add(name, Verdict.BAD, f"no build from the base makes it, and the Hub would show it as the model's {what}")
    return pieces.finding(f"{counted_that(len(proof.verdicts), 'file', 'are')} what {proof.base} and the drop map make")
