"""Whether the published weights are bytes of the pinned base: proved by streaming the base, writing nothing."""

from __future__ import annotations

from pruner.digest_cache import DigestCache
from pruner.errors import CheckFailedError, InputError, UnavailableError
from pruner.files import sha256_file
from pruner.progress import SILENT, Progress
from pruner.proof import prove
from pruner.sources import LocalSource, Source
from pruner.wording import counted_that
from release.hub.published import Published, base_of
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
        source = base_of(published, base)
        proof = prove(published.weights.source, source, workers=workers, progress=progress, cache=cache)
    except UnavailableError as error:
        return Finding(PART, Verdict.UNKNOWN, published.shown(error))
    except (InputError, CheckFailedError) as error:
        return Finding(PART, Verdict.BAD, published.shown(error))
    if not all(verdict.good for verdict in proof.verdicts) and (other := _other_than_pinned(published, source)) is not None:
        return Finding(PART, Verdict.UNKNOWN, f"{other} is not the file that the release pins; give another copy of the base")
    for verdict in proof.verdicts:
        pieces.add(verdict.name, Verdict.GOOD if verdict.good else Verdict.BAD, verdict.reason or "")
    return pieces.finding(f"{counted_that(len(proof.verdicts), 'file', 'are')} what {proof.base} and the drop map make")


def _other_than_pinned(published: Published, base: Source) -> str | None:
    """The first file of a base on this machine that is not the one the release was made from: then the weights prove nothing.

    What a Hub lists of its files was compared with the pinned digests already.
    """
    if not isinstance(base, LocalSource):
        return None
    pinned = {name: file.sha256 for name, file in published.lock.inputs.base.files.items() if name in base.files}
    wrong = (name for name, sha256 in pinned.items() if sha256_file(base.folder / name) != sha256)
    return next((f"{base.label}/{name}" for name in wrong), None)
