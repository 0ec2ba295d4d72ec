"""Where the outputs of a lock stand in the two repositories, and what else a release puts there."""

from __future__ import annotations

from release import reproduce
from release.attestation.model_signature import NAME as SIGNATURE
from release.attestation.model_signature import PUBLIC_KEY
from release.lock import VARYING, Lock
from release.manifest import LoadedManifest

PICTURES, RESULTS = "card/pictures/", "card/eval_results/"


def weights_names(lock: Lock) -> dict[str, str]:
    """Path in the weights repository of each locked output that belongs there."""
    names = {path: path.removeprefix("weights/") for path in lock.outputs if path.startswith("weights/")}
    fixed = {"card/README.md": "README.md", "card/claims.json": reproduce.CLAIMS, "drop_map.json": reproduce.DROP_MAP}
    names |= {path: name for path, name in fixed.items() if path in lock.outputs}
    for path in lock.outputs:
        parts = path.split("/")
        if path.startswith(RESULTS):
            names[path] = f".eval_results/{path.removeprefix(RESULTS)}"
        if parts[0] == "eval" and parts[-1] == "evidence.json":
            names[path] = reproduce.evidence_name(parts[1])
        if VARYING.fullmatch(path):
            names[path] = reproduce.timing_name(parts[1])
    return names | _pictures(lock)


def gguf_names(lock: Lock) -> dict[str, str]:
    """Path in the GGUF repository of each locked output that belongs there."""
    names = {path: path.split("/", 1)[1] for path in lock.outputs if path.startswith(("gguf/", "imatrix/"))}
    fixed = {"card/README.gguf.md": "README.md", "quality.json": "quality.json"}
    return names | {path: name for path, name in fixed.items() if path in lock.outputs} | _pictures(lock)


def _pictures(lock: Lock) -> dict[str, str]:
    """Both cards show them."""
    return {path: path.removeprefix("card/") for path in lock.outputs if path.startswith(PICTURES)}


def known_names(loaded: LoadedManifest) -> set[str]:
    """Paths in the weights repository of what a release publishes beside its locked outputs.

    Raises:
        InputError: the manifest names a file that leaves its folder.
    """
    return {SIGNATURE, PUBLIC_KEY, *reproduce.FIXED, *reproduce.named_places(loaded)}
