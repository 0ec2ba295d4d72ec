"""A base of headers alone: everything that a plan needs of a checkpoint, with no byte of its tensors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pruner.errors import InputError
from pruner.safetensors_format import DTYPE_BITS, build_header, data_order
from pruner.sources import SourceFile

INDEX = "model.safetensors.index.json"
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class HeaderSource:
    """A `Source` of config.json, index and shards, made from tensor names and shapes in the index's order.

    Headers, sizes and config can be read.  Tensor data cannot, and no file has a digest: nothing can be built or proved.
    `shards` is the number of files, over which the tensors are spread in order; the real base may divide them otherwise.
    """

    name: str
    config: Mapping[str, Any]
    shapes: Shapes
    dtype: str = "BF16"
    shards: int = 2
    gap: int = field(default=0, init=False)
    folders: tuple[str, ...] = field(default=(), init=False)

    @property
    def label(self) -> str:
        """What errors call it."""
        return f"{self.name} (headers only)"

    @cached_property
    def _texts(self) -> dict[str, bytes]:
        """Content of the small files, and the header of each shard."""
        texts = {"config.json": json.dumps(self.config).encode()}
        weight_map: dict[str, str] = {}
        for shard, names in self._parts.items():
            weight_map |= dict.fromkeys(names, shard)
            ordered = data_order((name, self.dtype) for name in names)
            texts[shard] = build_header(((name, self.dtype, self.shapes[name]) for name in ordered), "pt")
        texts[INDEX] = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
        return texts

    @cached_property
    def _parts(self) -> dict[str, list[str]]:
        names = list(self.shapes)
        step = -(-len(names) // self.shards)
        parts = [names[start : start + step] for start in range(0, len(names), step)]
        return {f"model-{number:05d}-of-{len(parts):05d}.safetensors": part for number, part in enumerate(parts, 1)}

    @cached_property
    def files(self) -> Mapping[str, SourceFile]:
        """Shards have the size that they would have with their data."""
        data = {shard: sum(self._bytes(name) for name in names) for shard, names in self._parts.items()}
        return {name: SourceFile(name, len(text) + data.get(name, 0)) for name, text in sorted(self._texts.items())}

    def _bytes(self, name: str) -> int:
        elements = 1
        for extent in self.shapes[name]:
            elements *= extent
        return elements * DTYPE_BITS[self.dtype] // 8

    def state(self, name: str) -> str:
        """Headers never change."""
        return str(self.files[name].size)

    def read(self, name: str, start: int, length: int) -> bytes:
        """Bytes of a small file or of a header; a read that begins in a header and goes on gets zeros for data.

        Raises:
            InputError: there is no such file, or only tensor data were asked for.
        """
        text = self._texts.get(name)
        if text is None:
            raise InputError(f"{self.label}/{name}: there is no such file")
        if start >= len(text) and length:
            raise InputError(f"{self.label}/{name}: holds headers, no tensor data; a build needs the base itself")
        return text[start : start + length].ljust(length, b"\0")

    def blocks(self, name: str, start: int, length: int) -> Iterator[bytes]:
        """The same as one block."""
        yield self.read(name, start, length)
