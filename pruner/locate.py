"""Where a shard differs from its plan: header, tensor, layer, expert."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

from pruner.build import shard_data
from pruner.checkpoint import Checkpoint
from pruner.drop_map import DropMap
from pruner.errors import InputError
from pruner.families import renumber
from pruner.plan import PlannedShard, PlannedTensor
from pruner.safetensors_format import Header, parse_header
from pruner.sources import Source, read_source_header

PROBE = 4096
"""Bytes of an expert's row by which it is recognized."""


@dataclass(frozen=True)
class Comparison:
    """A target and the base that it is compared with, under the drop map that it names."""

    target: Source
    base: Checkpoint
    drop_map: DropMap

    def explain(self, shard: PlannedShard, *, data: bool) -> str:
        """Say in one line how the target's shard differs from the plan, which it does.

        With `data` the shard is read up to the first byte that differs; otherwise only its header is.
        """
        size = self.target.files[shard.name].size
        if (header := self.header_difference(shard)) is not None:
            return header
        if size != shard.size:
            return f"has {size:,} bytes, the plan {shard.size:,}"
        if not data:
            return "the header is right, the tensor data are not"
        found = self.target.blocks(shard.name, len(shard.header), size - len(shard.header))
        offset = first_difference(shard_data(shard, self.base.source), found)
        return (
            "differed when it was digested and no longer does; was it being written?"
            if offset is None
            else self.place(shard, offset)
        )

    def header_difference(self, shard: PlannedShard) -> str | None:
        """How the header differs, None when it is as planned to the byte."""
        size = self.target.files[shard.name].size
        if self.target.read(shard.name, 0, min(size, len(shard.header))) == shard.header:
            return None
        planned = parse_header(io.BytesIO(shard.header), shard.size, shard.name)
        try:
            found = read_source_header(self.target, shard.name)
        except InputError as error:
            return f"the header is damaged: {str(error).partition(': ')[2]}"
        return f"the header differs: {_header_difference(planned, found)}"

    def place(self, shard: PlannedShard, offset: int) -> str:
        """What stands at a byte of the shard's tensor data; an expert is looked for among those of the base."""
        start = 0
        for tensor in shard.tensors:
            if offset < start + tensor.size:
                expert = self._expert(shard, tensor, start, offset)
                return f"tensor {tensor.name!r} differs from its byte {offset - start:,} on{expert}"
            start += tensor.size
        raise ValueError(offset)

    def _expert(self, shard: PlannedShard, tensor: PlannedTensor, start: int, offset: int) -> str:
        architecture = self.base.architecture
        place = architecture.classify(tensor.name)
        if place is None or place.layer not in self.drop_map.drop:
            return ""
        keep = self.drop_map.keep(place.layer, architecture.experts)
        stacked = place.expert is None
        if stacked and (not tensor.shape or tensor.shape[0] != len(keep)):
            return ""
        row = tensor.size // len(keep) if stacked else tensor.size
        position = (offset - start) // row if place.expert is None else place.expert
        probe = min(row, PROBE)
        begin = len(shard.header) + start + (position * row if stacked else 0)
        found = self.target.read(shard.name, begin, probe)
        said = f": layer {place.layer}, expert {position} (expert {keep[position]} of the base)"
        other = next(
            (expert for expert in range(architecture.experts) if self._probe(tensor, expert, row, probe) == found), None
        )
        return said if other in (None, keep[position]) else f"{said} holds expert {other} of the base"

    def _probe(self, tensor: PlannedTensor, expert: int, row: int, length: int) -> bytes | None:
        """The first bytes that the base has for an expert."""
        place = self.base.architecture.classify(tensor.name)
        stacked = place is not None and place.expert is None
        stored = self.base.tensors.get(tensor.name if stacked else renumber(tensor.name, self.base.architecture, expert))
        if stored is None:
            return None
        return self.base.source.read(stored.shard, stored.info.start + (expert * row if stacked else 0), length)


def first_difference(one: Iterator[bytes], other: Iterator[bytes]) -> int | None:
    """Offset of the first byte in which two streams differ, None when they are equal."""
    import numpy as np

    position, a, b = 0, b"", b""
    while True:
        a, b = a or next(one, b""), b or next(other, b"")
        common = min(len(a), len(b))
        if not common:
            return position if a or b else None
        if a[:common] != b[:common]:
            unequal = np.frombuffer(a, np.uint8, common) != np.frombuffer(b, np.uint8, common)
            return position + int(unequal.argmax())
        position, a, b = position + common, a[common:], b[common:]


def _header_difference(planned: Header, found: Header) -> str:
    if planned.metadata != found.metadata:
        return f"its metadata are {str(dict(found.metadata))[:80]}, planned {dict(planned.metadata)}"
    ours = {tensor.name: (tensor.dtype, tensor.shape) for tensor in planned.tensors}
    theirs = {tensor.name: (tensor.dtype, tensor.shape) for tensor in found.tensors}
    if unknown := [name for name in theirs if name not in ours]:
        return f"it holds tensor {unknown[0]!r}, which is not planned here"
    if lacking := [name for name in ours if name not in theirs]:
        return f"it lacks tensor {lacking[0]!r}"
    for name, (dtype, shape) in ours.items():
        if theirs[name] != (dtype, shape):
            return f"tensor {name!r} is {theirs[name][0]} {list(theirs[name][1])}, planned {dtype} {list(shape)}"
    return "the same tensors in another order, or other white space"
