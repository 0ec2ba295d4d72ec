"""What `moe-release diff` shows of two GGUFs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pruner.errors import printable
from pruner.wording import counted
from release.reports.comparison import ROWS, difference_table, more_of, rendered

if TYPE_CHECKING:
    from rich.console import RenderableType

    from release.gguf.diff import GgufComparison


def gguf_comparison_json(result: GgufComparison) -> dict[str, Any]:
    """The whole result as JSON values."""
    return asdict(result)


def gguf_comparison_text(result: GgufComparison) -> str:
    """The verdict, then what differs: keys, tensors, packaging."""
    return rendered(_parts(result))


def _parts(result: GgufComparison) -> Iterator[RenderableType]:
    yield f"A {result.labels[0]}\nB {result.labels[1]}\n{result.verdict}"
    sizes = " and ".join(f"{size:,}" for size in dict.fromkeys(result.bytes))
    compared = f"{counted(result.tensors, 'tensor')} on both sides, {sizes} bytes"
    yield f"{compared}; {counted(len(result.differences), 'difference')}"
    for each in result.keys[:ROWS]:
        yield f"{printable(each.key)}: {_said('A', each.a)}, {_said('B', each.b)}"
    yield from more_of(len(result.keys), "keys")
    if result.differences:
        yield difference_table(result.differences[:ROWS])
        yield from more_of(len(result.differences), "tensors")
    yield from (f"packaging: {text}" for text in result.packaging)


def _said(side: str, value: str | None) -> str:
    return f"not in {side}" if value is None else f"{value} in {side}"
