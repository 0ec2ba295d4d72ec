"""Digests of single tensors of a written shard: they tell other weights from the same weights in other packaging.

A build does not take them: they would hash every byte a second time.  Whoever reads a shard again for its digest gets both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruner.errors import InputError
from pruner.files import BLOCK, digest_of
from pruner.progress import Advance
from pruner.safetensors_format import TensorInfo, read_header
from pruner.workers import require_wanted

TensorDigests = Mapping[str, Mapping[str, Any]]
"""Tensor name → `{"dtype", "shape", "sha256"}` of its bytes."""


@dataclass(frozen=True)
class ShardDigests:
    """SHA-256 of a shard's file, and of each of its tensors; of a file with a damaged header, of none."""

    sha256: str
    tensors: TensorDigests


def digest_shard(path: Path, advance: Advance | None = None) -> ShardDigests:
    """Read a shard once, front to back, for the digests of the file and of its tensors."""
    whole = hashlib.sha256()
    tensors = {}
    with path.open("rb", buffering=0) as file:

        def take(length: int, own: hashlib._Hash | None = None) -> None:
            while length and (block := file.read(min(BLOCK, length))):
                require_wanted()
                whole.update(block)
                if own is not None:
                    own.update(block)
                if advance:
                    advance(len(block))
                length -= len(block)

        infos = _tensors(path)
        take(infos[0].start if infos else 0)
        for info in infos:
            own = hashlib.sha256()
            take(info.size, own)
            tensors[info.name] = {"dtype": info.dtype, "shape": list(info.shape), "sha256": own.hexdigest()}
        take(path.stat().st_size - file.tell())
    return ShardDigests(whole.hexdigest(), tensors)


def _tensors(path: Path) -> tuple[TensorInfo, ...]:
    try:
        return read_header(path).tensors
    except InputError:  # damaged since it was written: its file digest will say so
        return ()


def tensor_data_digest(shards: Iterable[TensorDigests]) -> str:
    """Digest over names, dtypes, shapes and bytes of all tensors: equal for the same weights in any packaging."""
    return digest_of({name: dict(entry) for tensors in shards for name, entry in tensors.items()})
