"""`moe-release prune BASE DROP_MAP OUT`: a rebuild without a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pruner.base_identity import BaseIdentity, identity_of, named_base, require_same_base
from pruner.build import build
from pruner.checkpoint import Checkpoint, open_checkpoint
from pruner.drop_map import DropMap, read_drop_map
from pruner.errors import InputError
from pruner.places import require_file, require_new, require_outside
from pruner.plan import plan_build, require_publishable
from pruner.progress import SILENT, Progress
from pruner.safetensors_format import Metadata
from pruner.sources import LocalSource, Source, open_source
from release.lock import Lock, read_lock
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
        InputError: base, map or options cannot be used, `out` exists or lies in the base, or the map was made for another base.
        CheckFailedError: a file of the base is not the one that the lock pins.
        UnavailableError: a remote base cannot be reached.
    """
    if metadata not in ("none", "pt"):
        raise InputError(f"--metadata {metadata}: give none or pt")
    cap = _cap(max_shard_size)
    source = open_source(base_address)
    require_new(out, "folder")
    if isinstance(source, LocalSource):
        require_outside(out, source.folder, "the base's")
    base = open_checkpoint(source)
    drop_map = read_drop_map(drop_map_path)
    require_publishable(drop_map, str(drop_map_path))
    locked = _lock_of(lock, base) if lock else None
    pins = {name: file.sha256 for name, file in locked.inputs.base.files.items()} if locked else {}
    unchecked = _unchecked(drop_map, source, locked, str(drop_map_path))
    plan = plan_build(
        base,
        drop_map,
        base_name=_base_name(drop_map.provenance, source),
        max_shard_size=cap,
        metadata=cast("Metadata", metadata),
        where=str(drop_map_path),
    )
    result = build(plan, source, out, workers=workers, progress=progress, verify_base=pins)
    digests = {file.name: file.sha256 for file in result.files}
    return {"files": digests, "unchecked": unchecked, "not_copied": list(base.left), "remarks": list(base.remarks)}


def _cap(size: str) -> int:
    try:
        cap = int(parse_size(size))
    except ValueError as error:
        raise InputError(f"--max-shard-size: {error}") from None
    if cap < 1:
        raise InputError(f"--max-shard-size {size}: a shard holds at least one byte; give for example 5GiB")
    return cap


def _lock_of(path: Path, base: Checkpoint) -> Lock:
    """A lock that pins every file of the base.

    Raises:
        InputError: there is none, or it pins other files than the base has.
    """
    require_file(path, "the lock of a release")
    if (lock := read_lock(path)) is None:  # it went away just now
        raise InputError(f"{path}: the lock does not exist")
    if missing := [name for name in base.files if name not in lock.inputs.base.files]:
        raise InputError(f"{path}: pins no digest of the base's {missing[0]}; is it the lock of another base?")
    return lock


def _unchecked(drop_map: DropMap, source: Source, lock: Lock | None, where: str) -> str | None:
    """Why nothing shows that the map was made for this base; None if something does: a commit, or a lock's own map.

    Raises:
        InputError: it was made for another one.
    """
    named = named_base(drop_map.provenance)
    reason = require_same_base(named, identity_of(source), where)
    if lock is None:
        return reason
    locked = BaseIdentity(lock.inputs.base.name, lock.inputs.base.revision)
    reason = require_same_base(named, locked, where)
    same_map = lock.inputs.drop_map == {layer: list(ids) for layer, ids in drop_map.drop.items()}
    return None if same_map or named == locked else reason


def _base_name(provenance: Mapping[str, Any], source: Source) -> dict[str, str]:
    """What the map says of its base; of a bare map repository and commit, if they show; never a folder's name or path."""
    named = provenance.get("base_model")
    if isinstance(named, dict):
        return {key: value for key, value in named.items() if key in ("name", "revision") and isinstance(value, str)}
    shown = identity_of(source)
    return {"name": shown.name, "revision": shown.revision} if shown.name is not None and shown.revision is not None else {}
