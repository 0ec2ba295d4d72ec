"""The proof of a published release: its weights against the base and the drop map that it pins.

Shards tell how they were made (`pruner.proof`), and `reproduce/` says it once more: weights that follow another recipe than the
release shows are BAD, however well they follow it.
"""

from __future__ import annotations

from pruner.checkpoint import METADATA
from pruner.digest_cache import DigestCache
from pruner.drop_map import read_drop_map
from pruner.errors import CheckFailedError, InputError, UnavailableError
from pruner.files import sha256_file
from pruner.progress import SILENT, Progress
from pruner.proof import Proof, Verdict, prove
from pruner.sources import LocalSource, Source, digested
from pruner.target_layout import Layout, read_layout
from release.hub.names import known_names, weights_names
from release.hub.published import Published
from release.reproduce import DROP_MAP


def prove_release(
    published: Published,
    base: Source,
    *,
    workers: int | None = None,
    progress: Progress = SILENT,
    cache: DigestCache | None = None,
) -> Proof:
    """Compare every planned file with the published one; weights of another recipe are BAD before anything is streamed.

    Raises:
        InputError: see `pruner.proof.open_comparison`, or the release's own map cannot be used.
        UnavailableError: one of the two cannot be reached, or this base is not the pinned one, which proves nothing.
    """
    target = published.weights.source
    try:
        if (reason := _other_recipe(published, read_layout(target))) is not None:
            return Proof(target.label, base.label, (Verdict(METADATA, target.files[METADATA].size, reason),), ())
        proof = prove(target, base, workers=workers, progress=progress, cache=cache, known=beside_the_weights(published))
    except (InputError, CheckFailedError):  # another model has other layers, experts or shards
        require_pinned(published, base)
        raise
    if not proof.good:
        require_pinned(published, base)
    return proof


def beside_the_weights(published: Published) -> set[str]:
    """Paths in the weights repository of what is of the release and no weights: whatever the lock says of those.

    Raises:
        InputError: the manifest names a file that leaves its folder.
    """
    names = weights_names(published.lock)
    return known_names(published.manifest) | {name for path, name in names.items() if not path.startswith("weights/")}


def _other_recipe(published: Published, layout: Layout) -> str | None:
    """What the weights say of their making and the release does not."""
    if (layer := read_drop_map(published.path(DROP_MAP)).first_difference(layout.drop_map)) is not None:
        return f"drops other experts than {DROP_MAP} says, first in layer {layer}"
    base = published.manifest.content.base
    named = {key: value for key, value in {"name": base.label, "revision": base.revision}.items() if value is not None}
    if layout.base_name != named:
        return f"names the base {'@'.join(layout.base_name.values())}, the manifest {'@'.join(named.values())}"
    return None


def require_pinned(published: Published, base: Source) -> None:
    """Raise UnavailableError when a file of the base is not the one that the release was made from.

    Of a base on a Hub the listed digests are compared, and only small files are read.
    """
    for name, pinned in published.lock.inputs.base.files.items():
        if name not in base.files:
            what = f"is missing, and the release was made from {published.lock.inputs.base.name}"
        elif _sha256(base, name) != pinned.sha256:
            what = "is not the file that the release pins"
        else:
            continue
        raise UnavailableError(f"{base.label}/{name} {what}; give another copy of the base")


def _sha256(base: Source, name: str) -> str | None:
    if isinstance(base, LocalSource):
        return sha256_file(base.folder / name)
    return base.files[name].sha256 or digested(base, base.files[name]).sha256
