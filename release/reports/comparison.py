"""What `moe-release diff` and `moe-release infer` show: tables for people, the same as JSON for machines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pruner.errors import printable
from pruner.wording import counted

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from pruner.comparison.diff import Comparison
    from pruner.comparison.differences import TensorDifference
    from pruner.comparison.inference import Inference
    from pruner.comparison.kept import KeptLayer

ROWS = 20
"""Rows of a table that are printed; `--json` has all."""
WIDTH = 160
"""Columns of a table, the same everywhere, so that output can be compared."""
FILE_KINDS = {"content": "content differs", "formatting": "the same content, formatted differently"}
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
"""Names in foreign headers may hold anything; terminals obey some of it."""


def comparison_json(result: Comparison) -> dict[str, Any]:
    """The whole result as JSON values."""
    return asdict(result)


def comparison_text(result: Comparison) -> str:
    """The verdict, then what differs, from weights to other files."""
    return rendered(_comparison_parts(result))


def _comparison_parts(result: Comparison) -> Iterator[RenderableType]:
    yield f"A {result.labels[0]}\nB {result.labels[1]}\n{result.verdict}"
    compared = f"{counted(result.tensors, 'tensor')} on both sides, {counted(result.bytes, 'byte')}"
    yield f"{compared}; {counted(len(result.differences), 'difference')}"
    if not result.experts_known and result.differences:
        yield "experts are not told apart: no config.json of a known family beside the weights"
    if result.renamed:
        name, other = next(iter(result.renamed.items()))
        other_names = "has another name" if len(result.renamed) == 1 else "have other names"
        yield f"{counted(len(result.renamed), 'tensor')} {other_names}: {name} in A is {other} in B"
    yield from (finding.text for finding in result.layers[:ROWS])
    yield from more_of(len(result.layers), "layers")
    if result.differences:
        yield difference_table(result.differences[:ROWS])
        yield from more_of(len(result.differences), "tensors")
    yield from (f"{each.file or 'packaging'}: {each.text}" for each in result.packaging[:ROWS])
    yield from more_of(len(result.packaging), "differences of packaging")
    for file in result.files:
        yield f"{printable(file.name)}: {FILE_KINDS.get(file.kind, file.kind)}"
        yield from (f"    {key}" for key in file.keys[:ROWS])
        yield from more_of(file.count, "keys")


def inference_json(result: Inference) -> dict[str, Any]:
    """The whole result as JSON values, with the drop map in its written form."""
    found = {key: value for key, value in asdict(result).items() if key != "drop_map"}
    summary = {"verdict": result.verdict, "exact": result.exact, "order_kept": result.order_kept, "holds": result.holds}
    return summary | found | {"drop_map": result.drop_map.envelope(result.experts)}


def inference_text(result: Inference) -> str:
    """The verdict, a line for each layer, and what the proof found."""
    return rendered(_inference_parts(result))


def _inference_parts(result: Inference) -> Iterator[RenderableType]:
    from rich.table import Table

    yield f"{result.target} as a prune of {result.base}\n{result.verdict}"
    if result.claim:
        yield result.claim
    table = Table("layer", "kept", "dropped experts", "router rows", "order", box=None, header_style="", pad_edge=False)
    for layer in result.layers:
        dropped = ", ".join(str(expert) for expert in result.drop_map.drop[layer.layer])
        kept = f"{len(layer.keep)} of {result.experts}"
        table.add_row(layer.layer, kept, dropped, _row_match(layer), "kept" if layer.order_kept else "changed")
    yield table
    if result.proof is None or result.proof.impossible:
        return
    differences = result.proof.differences
    compared = f"{counted(result.proof.tensors, 'tensor')}, {counted(result.proof.bytes, 'byte')}"
    yield f"compared with the base's bytes: {compared}; {len(differences):,} differ"
    if result.proof.by_digest:
        yield f"{counted(len(result.proof.by_digest), 'shard')} by the digests that the Hub lists for them, not fetched"
    if differences:
        yield f"A is {result.base} without the dropped experts, B is {result.target}"
        yield difference_table(differences[:ROWS])
        yield from more_of(len(differences), "tensors")
    yield from (f"config.json: {text}" for text in result.proof.config[:ROWS])


def _row_match(layer: KeptLayer) -> str:
    if layer.nearest:
        least = min(layer.nearest, key=lambda each: each.margin)
        cosine = min(each.cosine for each in layer.nearest)
        return f"{len(layer.nearest)} not byte-identical: cosine ≥ {cosine:.4f}, margin ≥ {least.margin:.4f}"
    return f"equal ({len(layer.ambiguous)} with equal candidates)" if layer.ambiguous else "equal"


def difference_table(differences: tuple[TensorDifference, ...]) -> RenderableType:
    """A row for each tensor: where, which experts, how much and how far."""
    from rich.table import Table

    table = Table(
        "tensor", "layer", "experts", "bytes that differ", "largest difference", box=None, header_style="", pad_edge=False
    )
    for each in differences:
        table.add_row(printable(each.name), each.layer or "", _experts(each), _amount(each), _largest(each))
    return table


def _experts(difference: TensorDifference) -> str:
    experts = list(difference.experts)
    shown = ", ".join(str(expert) for expert in experts[:8])
    return f"{shown} … ({len(experts)})" if len(experts) > 8 else shown  # noqa: PLR2004


def _amount(difference: TensorDifference) -> str:
    if difference.kind == "shape":
        return f"shape {list(difference.shapes[0])} → {list(difference.shapes[1])}"
    if difference.kind == "dtype":
        values = f", {difference.found.elements:,} values" if difference.found and difference.found.elements is not None else ""
        return f"{difference.dtypes[0]} → {difference.dtypes[1]}{values}"
    if difference.found is None:
        return difference.kind
    return f"{difference.found.differing:,} of {difference.size:,}, first at {difference.found.first:,}"


def _largest(difference: TensorDifference) -> str:
    found = difference.found
    if found is None:
        return ""
    finite = "" if found.largest is None else f"{found.largest:.6g}"
    return f"{finite} ({found.not_finite:,} not finite)" if found.not_finite else finite


def more_of(count: int, what: str) -> Iterator[str]:
    """How many rows are not shown, if any."""
    if count > ROWS:
        yield f"… and {count - ROWS:,} more {what}; --json lists them"


def rendered(parts: Iterator[RenderableType]) -> str:
    """Plain text: what rich makes of tables, words as they are."""
    console = _console()
    with console.capture() as capture:
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, str))
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", capture.get()).rstrip()


def _console() -> Console:
    from rich.console import Console

    return Console(width=WIDTH, no_color=True, legacy_windows=False, markup=False, emoji=False, highlight=False)
