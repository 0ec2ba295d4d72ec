"""How a release was built, as in-toto Statement v1 with SLSA provenance v1 (https://slsa.dev/spec/v1.0/provenance).

Unsigned and deterministic: it follows from manifest and lock alone, names no date and no host, and needs no library; whoever
wants to sign it can.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruner.errors import CheckFailedError
from pruner.files import canonical_json, digest_of
from release.lock import Lock
from release.manifest import Manifest

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
PROJECT = "https://github.com/moe-release/moe-release"
QUALITY, EVIDENCE = "quality.json", re.compile(r"eval/[^/]+/evidence\.json")
"""Outputs that say how good the model is."""
BUILD_TYPE = f"{PROJECT}/release/v1"


PROVENANCE = "provenance.json"
LARGEST = 16 << 20
"""Bytes of a statement that is read."""


def provenance(
    manifest: Manifest, manifest_sha256: str, lock: Lock, files: Mapping[str, str] | None = None, *, byproducts: bool = True
) -> bytes:
    """The statement as canonical JSON.

    Args:
        manifest: what was declared.
        manifest_sha256: digest of its file.
        lock: what came out.
        files: SHA-256 by name of the subject; default: weights, GGUFs and importance matrix.
        byproducts: name what was measured on them.
    """
    measured = _measured(lock) if byproducts else []
    version = lock.inputs.tools.get("moe-release", "unknown")
    return canonical_json(
        {
            "_type": STATEMENT,
            "subject": subject(files or model_files(lock)),
            "predicateType": PREDICATE,
            "predicate": {
                "buildDefinition": {
                    "buildType": BUILD_TYPE,
                    "externalParameters": {
                        "manifest": {"name": manifest.name, "schema": manifest.schema_, "sha256": manifest_sha256}
                    },
                    "resolvedDependencies": [*_base(lock), *_files(lock), *_tools(lock)],
                },
                "runDetails": {
                    "builder": {"id": PROJECT, "version": {"moe-release": version}},
                    **({"byproducts": measured} if measured else {}),
                },
            },
        }
    )


def built_manifest(path: Path) -> str | None:
    """SHA-256 of the manifest of which a statement in a work folder tells; None where there is none that can be read."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            return None
        told = json.loads(path.read_bytes())["predicate"]["buildDefinition"]["externalParameters"]["manifest"]["sha256"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return told if isinstance(told, str) else None


def model_files(lock: Lock) -> dict[str, str]:
    """SHA-256 by name of all that the build made of the model: shards and what belongs to them, GGUFs, importance matrix.

    Raises:
        CheckFailedError: two of them have one name, and one would hide the other.
    """
    found: dict[str, str] = {}
    for path, file in lock.outputs.items():
        folder, _, name = path.partition("/")
        if folder not in ("weights", "gguf", "imatrix"):
            continue
        if name in found:
            raise CheckFailedError(f"{name}: stands twice among weights, GGUFs and importance matrix")
        found[name] = file.sha256
    return found


def subject(digests: Mapping[str, str]) -> list[dict[str, Any]]:
    """Files by name as the subject of a statement."""
    return [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(digests.items())]


def _base(lock: Lock) -> list[dict[str, Any]]:
    """The files of the base; one that is named by path has no address that means anything elsewhere."""
    base = lock.inputs.base
    where = f"hf://{base.name}@{base.revision}" if base.revision else None
    return [
        {"name": f"base/{name}", **({"uri": f"{where}/{name}"} if where else {}), "digest": {"sha256": file.sha256}}
        for name, file in sorted(base.files.items())
    ]


def _files(lock: Lock) -> list[dict[str, Any]]:
    """The map by the digest of its canonical form, as every map with the same decisions is the same; then other inputs."""
    drop_map = [{"name": "drop map", "digest": {"sha256": digest_of(lock.inputs.drop_map)}}] if lock.inputs.drop_map else []
    return drop_map + [{"name": name, "digest": {"sha256": file.sha256}} for name, file in sorted(lock.inputs.files.items())]


def _measured(lock: Lock) -> list[dict[str, Any]]:
    """Evidence of exams and the quality check; not the seconds, which no two builds agree on."""
    found = {path: file.sha256 for path, file in lock.outputs.items() if path == QUALITY or EVIDENCE.fullmatch(path)}
    return subject(found)


def _tools(lock: Lock) -> list[dict[str, Any]]:
    commit = lock.inputs.tools.get("llama.cpp")
    return [{"name": "llama.cpp", "digest": {"gitCommit": commit}}] if commit else []
