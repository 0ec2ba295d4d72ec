"""Descriptions of a base's headers: config values and tensor shapes as rules, in a page of YAML instead of gigabytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pruner.errors import InputError
from pruner.header_source import HeaderSource
from release.documents import Document, load_document

MOST_TENSORS = 200_000
Extent = Annotated[int, Field(gt=0, le=1 << 32)]
Count = Annotated[int, Field(gt=0, le=4096)]


class Part(Document):
    """Tensors of a block: in every layer, or in those whose number modulo `period` is in `at`; `experts` repeats `{e}`."""

    tensors: dict[str, list[Extent]]
    period: Count = 1
    at: tuple[int, ...] = (0,)
    experts: Count | None = None

    def names(self, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes in one layer, expert by expert."""
        if layer % self.period in self.at:
            for expert in range(self.experts or 1):
                for name, shape in self.tensors.items():
                    yield name.replace("{e}", str(expert)), tuple(shape)


class Block(Document):
    """`count` layers whose tensors' names start with `prefix`, in which `{n}` is the layer's number."""

    prefix: str
    count: Count = 1
    parts: list[Part] = Field(min_length=1)


class Headers(Document):
    """A base as far as its headers tell: enough to plan, never to build."""

    schema_: Literal["moe-release/headers/v1"] = Field(alias="schema")
    name: str = Field(description="What the base is called.")
    source: str = Field(description="Where names, shapes and values come from, and what is not known.")
    dtype: Literal["BF16", "F16", "F32"] = "BF16"
    shards: Count = 2
    config: dict[str, Any] = Field(description="The values of config.json that plans and cards read.")
    blocks: list[Block] = Field(min_length=1)

    @model_validator(mode="after")
    def _bounded(self) -> Headers:
        tensors = sum(
            block.count * sum(len(part.tensors) * (part.experts or 1) for part in block.parts) for block in self.blocks
        )
        if tensors > MOST_TENSORS:
            raise ValueError(f"describes {tensors:,} tensors; at most {MOST_TENSORS:,} are taken")
        return self

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor by its name, in the order of the blocks."""
        return {
            f"{block.prefix.replace('{n}', str(layer))}.{name}".lstrip("."): shape
            for block in self.blocks
            for layer in range(block.count)
            for part in block.parts
            for name, shape in part.names(layer)
        }


def described_base(path: Path) -> HeaderSource:
    """The headers that a description stands for.

    Raises:
        InputError: the description cannot be read, with file:line:column, or names no tensor.
    """
    described = load_document(path, Headers)
    shapes = described.shapes()
    if not shapes:
        raise InputError(f"{path}: describes no tensor")
    return HeaderSource(described.name, described.config, shapes, described.dtype, described.shards)
