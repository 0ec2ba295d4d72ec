"""`moe-release prune BASE DROP_MAP OUT`: a rebuild without a manifest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from pruner.base_check import require_small_files
from pruner.base_identity import BaseIdentity, identity_of, named_base, require_same_base
from pruner.build import build
from pruner.checkpoint import INDEX, Checkpoint, open_checkpoint
from pruner.drop_map import DropMap, read_drop_map
from pruner.errors import InputError
from pruner.places import require_file, require_new, require_outside
from pruner.plan import DEFAULT_SHARD_SIZE, Plan, plan_build, require_publishable
from pruner.progress import SILENT, Progress
from pruner.safetensors_format import DTYPE_BITS, Metadata
from pruner.sources import LocalSource, Source, open_source
from pruner.target_layout import cap_of
from release.lock import Lock, LockedFile, read_lock
from release.manifest import parse_size


def prune_directly(
    base_address: str | Path,
    drop_map_path: Path,
    out: Path,
    *,
    max_shard_size: str | None = None,
    metadata: str | None = None,
    lock: Path | None = None,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Build a variant of a folder or of `hf://org/name@revision`, and return its digests as JSON.

    With `lock` the base must have the digests that the lock of a release pins; they are compared in the pass that copies it.
    Cap and metadata of the shards are those of the lock if it is of this map, otherwise 5 GiB and `pt`, unless they are given.

    Raises:
        InputError: base, map or options cannot be used, `out` exists or lies in the base, or the map was made for another base.
        CheckFailedError: a file of the base is not the one that the lock pins.
        UnavailableError: a remote base cannot be reached.
    """
    if metadata not in (None, "none", "pt"):
        raise InputError(f"--metadata {metadata}: give none or pt")
    cap = None if max_shard_size is None else _cap(max_shard_size)
    source = open_source(base_address)
    require_new(out, "folder")
    if isinstance(source, LocalSource):
        require_outside(out, source.folder, "the base's")
    base = open_checkpoint(source)
    drop_map = read_drop_map(drop_map_path)
    require_publishable(drop_map, str(drop_map_path))
    locked = _lock_of(lock, base) if lock else None
    pins = {name: file.sha256 for name, file in locked.inputs.base.files.items()} if locked else {}
    require_small_files(source, pins, ("config.json", INDEX))
    unchecked = _unchecked(drop_map, source, locked, str(drop_map_path))
    at = partial(plan_build, base, drop_map, base_name=_base_name(drop_map.provenance, source), where=str(drop_map_path))
    shards = _shards_of(locked, drop_map)
    found: tuple[int, Metadata] = (DEFAULT_SHARD_SIZE, "pt")
    if shards and None in (cap, metadata):
        found = _locked_layout(at, shards, str(lock))
    plan = at(max_shard_size=cap or found[0], metadata=cast("Metadata", metadata or found[1]))
    result = build(plan, source, out, workers=workers, progress=progress, verify_base=pins)
    digests = {file.name: file.sha256 for file in result.files}
    remarks = [*base.remarks, *_other_shards(shards, digests, str(lock))]
    return {"files": digests, "unchecked": unchecked, "not_copied": list(base.left), "remarks": remarks}


def _shards_of(lock: Lock | None, drop_map: DropMap) -> dict[str, LockedFile]:
    """The shards that a lock lists, if it is the lock of this map."""
    if lock is None or not _is_map_of(lock, drop_map):
        return {}
    return {name: file for name, file in lock.weights().items() if name.endswith(".safetensors")}


def _is_map_of(lock: Lock, drop_map: DropMap) -> bool:
    return lock.inputs.drop_map == {layer: list(ids) for layer, ids in drop_map.drop.items()}


def _locked_layout(at: Callable[..., Plan], shards: Mapping[str, LockedFile], where: str) -> tuple[int, Metadata]:
    """The cap and the metadata that give shards as large as the locked ones.

    Raises:
        InputError: no layout gives them, or the lock does not tell their tensors.
    """
    cap = cap_of([_size(tensor) for tensor in (file.tensors or {}).values()] for file in shards.values())
    sizes = {name: file.size for name, file in shards.items()}
    layouts: tuple[Metadata, ...] = ("pt", "none")
    for metadata in layouts:
        if {shard.name: shard.size for shard in at(max_shard_size=cap, metadata=metadata).shards} == sizes:
            return cap, metadata
    raise InputError(
        f"{where}: does not tell how its shards were packed; give --max-shard-size and --metadata, which its manifest has "
        "under weights (default 5GiB and pt)"
    )


def _size(tensor: Mapping[str, Any]) -> int:
    """Bytes of a tensor that a lock describes; 0 for a description of none."""
    try:
        return int(math.prod(tensor["shape"]) * DTYPE_BITS[tensor["dtype"]] // 8)
    except (KeyError, TypeError, ValueError):
        return 0


def _other_shards(locked: Mapping[str, LockedFile], digests: Mapping[str, str], where: str) -> list[str]:
    """One line if the shards that were built are not those that the lock of this map lists."""
    built = {name: digest for name, digest in digests.items() if name.endswith(".safetensors")}
    if not locked or built == {name: file.sha256 for name, file in locked.items()}:
        return []
    return [
        f"the shards are not those of {where}: leave out --max-shard-size and --metadata, and they are packed as it has them"
    ]


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
    return None if _is_map_of(lock, drop_map) or named == locked else reason


def _base_name(provenance: Mapping[str, Any], source: Source) -> dict[str, str]:
    """What the map says of its base; of a bare map repository and commit, if they show; never a folder's name or path."""
    named = provenance.get("base_model")
    if isinstance(named, dict):
        return {key: value for key, value in named.items() if key in ("name", "revision") and isinstance(value, str)}
    shown = identity_of(source)
    return {"name": shown.name, "revision": shown.revision} if shown.name is not None and shown.revision is not None else {}
