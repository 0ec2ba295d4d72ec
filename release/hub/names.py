"""Names of a release in its repositories: where the outputs of its lock stand, and what else it puts there."""

from __future__ import annotations

from release import reproduce
from release.attestation.model_signature import NAME as SIGNATURE
from release.attestation.model_signature import PUBLIC_KEY
from release.lock import Lock
from release.manifest import LoadedManifest

PICTURES, RESULTS = "card/pictures/", "card/eval_results/"


def weights_names(lock: Lock) -> dict[str, str]:
    """Path in the weights repository of each locked output that belongs there."""
    return reproduce.places_in("weights", lock.outputs)


def gguf_names(lock: Lock) -> dict[str, str]:
    """Path in the GGUF repository of each locked output that belongs there."""
    return reproduce.places_in("gguf", lock.outputs)


def known_names(loaded: LoadedManifest) -> set[str]:
    """Paths in the weights repository of what a release publishes beside its locked outputs.

    Raises:
        InputError: the manifest names a file that leaves its folder.
    """
    return {SIGNATURE, PUBLIC_KEY, *reproduce.FIXED, *reproduce.named_places(loaded)}
