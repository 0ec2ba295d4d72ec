"""`moe-release gguf cut BASE DROP_MAP OUT` and `prove` of a GGUF: without a manifest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pruner.base_identity import BaseIdentity, named_base, require_same_base
from pruner.digest_cache import DigestCache
from pruner.drop_map import read_drop_map
from pruner.errors import InputError
from pruner.places import require_new
from pruner.progress import SILENT, Progress
from pruner.proof import Proof
from release.gguf.cut import cut
from release.gguf.cut_plan import plan_cut
from release.gguf.cut_proof import prove_cut
from release.gguf.located import locate
from release.gguf.names import last_label
from release.gguf.shards import MEGABYTE, SHARD
from release.sections.values import parse_size

SUFFIX = ".gguf"
_DIGEST = re.compile(r"[0-9a-f]{64}")


def cut_directly(
    base_address: str | Path,
    drop_map_path: Path,
    out: Path,
    *,
    name: str | None = None,
    sha256: Sequence[str] = (),
    max_shard_size: str | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Cut a GGUF and return what was written as JSON.

    Raises:
        InputError: base, map or options cannot be used, or `out` or a shard of it exists.
        CheckFailedError: the base is not the one that `sha256` names, a digest for each of its files.
        UnavailableError: the disk is full, or a remote base cannot be reached.
    """
    for digest in sha256:
        if not _DIGEST.fullmatch(digest):
            raise InputError(f"--sha256 {digest[:80]}: expected 64 hexadecimal digits in lower case")
    max_bytes = _cap(max_shard_size) if max_shard_size is not None else None
    require_new(out, "name")
    drop_map = read_drop_map(drop_map_path)
    unchecked = require_same_base(named_base(drop_map.provenance), BaseIdentity(), str(drop_map_path))
    base = locate(base_address)
    plan = plan_cut(base, drop_map, name=name or model_name_of(out), where=str(drop_map_path))
    result = cut(base, plan, out, max_bytes=max_bytes, pinned=sha256, progress=progress)
    return {
        "base": base.label,
        "base_digest_checked": result.checked,
        "experts": plan.experts,
        "files": [asdict(file) for file in result.files],
        "name": plan.name,
        "notes": plan.notes,
        "size": result.size,
        "type": plan.file_type,
        "unchecked": unchecked,
    }


def _cap(size: str) -> int:
    """Bytes that `--max-shard-size` names."""
    try:
        cap = int(parse_size(size))
    except ValueError as error:
        raise InputError(f"--max-shard-size: {error}") from None
    if cap < MEGABYTE:
        raise InputError(f"--max-shard-size {size}: a shard's cap is at least 1MB; give for example 40GB")
    return cap


def model_name_of(out: Path) -> str:
    """`Model` of `Model-Q6_K.gguf`: what stands before the last quant label, or the whole stem."""
    stem = SHARD.sub("", out.name).removesuffix(SUFFIX)
    label = last_label(stem)
    named = stem[: -len(label)].rstrip("-._") if label and stem.upper().endswith(label) else stem
    return named or stem


def prove_directly(
    target: str,
    base: str,
    *,
    drop_map: Path | None,
    locate_difference: bool | None,
    cache: Path | None = None,
    progress: Progress = SILENT,
) -> Proof:
    """Prove a GGUF against the base's GGUF, with digests that the folder `cache` remembers; raises what `prove_cut` raises."""
    if not base.endswith(SUFFIX):
        raise InputError(f"--base {base}: a GGUF is proved against the base's GGUF of the same type; give its file")
    known = read_drop_map(drop_map) if drop_map else None
    remembered = DigestCache(cache) if cache else None
    return prove_cut(
        *(locate(target), locate(base)), drop_map=known, progress=progress, locate=locate_difference, cache=remembered
    )
