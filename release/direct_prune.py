"""`moe-release prune BASE DROP_MAP OUT`: a rebuild without a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pruner.build import build
from pruner.checkpoint import open_checkpoint
from pruner.drop_map import read_drop_map
from pruner.errors import InputError
from pruner.hub_source import HubSource
from pruner.plan import plan_build
from pruner.progress import SILENT, Progress
from pruner.safetensors_format import Metadata
from pruner.sources import LocalSource, open_source
from release.manifest import parse_size


def prune_directly(
    base_address: str | Path,
    drop_map_path: Path,
    out: Path,
    *,
    max_shard_size: str,
    metadata: str,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Build a variant of a folder or of `hf://org/name@revision`, and return its digests as JSON.

    Raises:
        InputError: base, map or options cannot be used, or `out` exists.
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
    plan = plan_build(
        base,
        drop_map,
        base_name=_base_name(drop_map.provenance, source),
        max_shard_size=cap,
        metadata=cast("Metadata", metadata),
        where=str(drop_map_path),
    )
    result = build(plan, source, out, workers=workers, progress=progress)
    return {"files": {file.name: file.sha256 for file in result.files}}


def _base_name(provenance: Mapping[str, Any], source: LocalSource | HubSource) -> dict[str, str]:
    """What the map says of its base; of a bare map, repository and commit or the folder's name (never its path)."""
    named = provenance.get("base_model")
    if isinstance(named, dict):
        return {key: value for key, value in named.items() if key in ("name", "revision") and isinstance(value, str)}
    if isinstance(source, LocalSource):
        return {"name": source.folder.resolve().name}
    return {"name": source.repo, "revision": source.commit}
