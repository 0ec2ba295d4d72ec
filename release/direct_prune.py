"""`moe-release prune BASE DROP_MAP OUT`: a rebuild without a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pruner.base_check import Pins
from pruner.base_identity import BaseIdentity, identity_of, named_base, require_same_base
from pruner.build import build
from pruner.checkpoint import Checkpoint, open_checkpoint
from pruner.drop_map import read_drop_map
from pruner.errors import InputError
from pruner.plan import plan_build
from pruner.progress import SILENT, Progress
from pruner.safetensors_format import Metadata
from pruner.sources import LocalSource, Source, open_source
from release.lock import read_lock
from release.manifest import parse_size


def prune_directly(
    base_address: str | Path,
    drop_map_path: Path,
    out: Path,
    *,
    max_shard_size: str,
    metadata: str,
    lock: Path | None = None,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Build a variant of a folder or of `hf://org/name@revision`, and return its digests as JSON.

    With `lock` the base must have the digests that the lock of a release pins; they are compared in the pass that copies it.

    Raises:
        InputError: base, map or options cannot be used, `out` exists, or the map was made for another base.
        CheckFailedError: a file of the base is not the one that the lock pins.
        UnavailableError: a remote base cannot be reached.
    """
    if metadata not in ("none", "pt"):
        raise InputError(f"--metadata {metadata}: give none or pt")
    try:
        cap = int(parse_size(max_shard_size))
    except ValueError as error:
        raise InputError(f"--max-shard-size: {error}") from None
    source = open_source(base_address)
    base = open_checkpoint(source)
    drop_map = read_drop_map(drop_map_path)
    pins, locked = _pinned(lock, base) if lock else ({}, None)
    named = named_base(drop_map.provenance)
    unchecked = require_same_base(named, identity_of(source), str(drop_map_path))
    if locked is not None:
        require_same_base(named, locked, str(drop_map_path))
        unchecked = None
    plan = plan_build(
        base,
        drop_map,
        base_name=_base_name(drop_map.provenance, source),
        max_shard_size=cap,
        metadata=cast("Metadata", metadata),
        where=str(drop_map_path),
    )
    result = build(plan, source, out, workers=workers, progress=progress, verify_base=pins)
    return {"files": {file.name: file.sha256 for file in result.files}, "unchecked": unchecked}


def _pinned(path: Path, base: Checkpoint) -> tuple[Pins, BaseIdentity]:
    """The digests that a lock pins for the files of the base, and the base that it names.

    Raises:
        InputError: there is no lock, or it pins other files than the base has.
    """
    lock = read_lock(path)
    if lock is None:
        raise InputError(f"{path}: the lock does not exist")
    pinned = {name: file.sha256 for name, file in lock.inputs.base.files.items()}
    if missing := [name for name in base.files if name not in pinned]:
        raise InputError(f"{path}: pins no digest of the base's {missing[0]}; is it the lock of another base?")
    return pinned, BaseIdentity(lock.inputs.base.name, lock.inputs.base.revision)


def _base_name(provenance: Mapping[str, Any], source: Source) -> dict[str, str]:
    """What the map says of its base; of a bare map, repository and commit or the folder's name (never its path)."""
    named = provenance.get("base_model")
    if isinstance(named, dict):
        return {key: value for key, value in named.items() if key in ("name", "revision") and isinstance(value, str)}
    shown = identity_of(source)
    if shown.name is not None and shown.revision is not None:
        return {"name": shown.name, "revision": shown.revision}
    return {"name": source.folder.resolve().name if isinstance(source, LocalSource) else source.label}
