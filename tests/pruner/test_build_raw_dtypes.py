"""Dtypes that numpy does not know, and experts that are numbered: shards equal what the library writes for the same bytes."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import TensorSpec, serialize_file

from pruner.build import build
from pruner.checkpoint import open_checkpoint
from pruner.drop_map import DropMap
from pruner.plan import plan_build
from tests.conftest import gemma4_config

DTYPES = {
    "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e8m0fnu": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1,
    "uint16": 2, "uint32": 4, "uint64": 8, "complex64": 8, "float4_e2m1fn_x2": 1, "uint8": 1, "float16": 2, "float32": 4,
}  # fmt: skip
"""The library's names of dtypes with the bytes of an item; one of `float4_e2m1fn_x2` holds two values."""
STACKED, NUMBERED = "model.language_model.layers", "model.layers"
QWEN = {"model_type": "qwen3_moe", "num_experts_per_tok": 1}


@dataclass(frozen=True)
class Raw:
    """Bytes [*shape, bytes of an item] of a dtype."""

    dtype: str
    data: np.ndarray[Any, Any]

    def spec(self) -> TensorSpec:
        pointer = self.data.ctypes.data
        return TensorSpec(dtype=self.dtype, shape=list(self.data.shape[:-1]), data_ptr=pointer, data_len=self.data.nbytes)


def write(path: Path, tensors: Mapping[str, Raw]) -> None:
    serialize_file({name: tensor.spec() for name, tensor in tensors.items()}, path, {"format": "pt"})


def shapes_of(experts: int, layers: int, *, numbered: bool) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (3, 4)}
    for layer in range(layers):
        if numbered:
            shapes[f"{NUMBERED}.{layer}.mlp.gate.weight"] = (experts, 3)
            for expert in range(experts):
                shapes[f"{NUMBERED}.{layer}.mlp.experts.{expert}.down_proj.weight"] = (2, 3)
                shapes[f"{NUMBERED}.{layer}.mlp.experts.{expert}.down_proj.weight_scale"] = (1,)
        else:
            shapes[f"{STACKED}.{layer}.router.proj.weight"] = (experts, 3)
            shapes[f"{STACKED}.{layer}.experts.gate_up_proj"] = (experts, 2, 3)
            shapes[f"{STACKED}.{layer}.experts.down_proj"] = (experts, 5)
    return shapes


def expected_of(tensors: Mapping[str, Raw], drop: Mapping[str, tuple[int, ...]], experts: int) -> dict[str, Raw]:
    """Slices and new numbers by rules of this test's own."""
    result = {}
    for name, tensor in tensors.items():
        found = re.search(r"layers\.(\d+)\.", name)
        if found is None:
            result[name] = tensor
            continue
        keep = [expert for expert in range(experts) if expert not in drop[found[1]]]
        if number := re.search(r"(?<=\.experts\.)\d+(?=\.)", name):
            if int(number[0]) in keep:
                result[f"{name[: number.start()]}{keep.index(int(number[0]))}{name[number.end() :]}"] = tensor
        else:
            result[name] = Raw(tensor.dtype, tensor.data[keep].copy())
    return result


@settings(max_examples=150)
@given(data=st.data(), numbered=st.booleans(), experts=st.integers(2, 14), layers=st.integers(1, 2), cap=st.integers(1, 400))
def test_shards_equal_the_librarys(data: st.DataObject, numbered: bool, experts: int, layers: int, cap: int) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    tensors = {}
    for name, shape in shapes_of(experts, layers, numbered=numbered).items():
        dtype = data.draw(st.sampled_from(sorted(DTYPES)))
        tensors[name] = Raw(dtype, random.integers(0, 256, (*shape, DTYPES[dtype]), dtype=np.uint8))
    kept = data.draw(st.integers(1, experts - 1), label="kept")
    drop = {str(layer): tuple(sorted(data.draw(st.permutations(range(experts)))[kept:])) for layer in range(layers)}
    order = data.draw(st.permutations(list(tensors)))
    config = {**QWEN, "num_experts": experts, "num_hidden_layers": layers} if numbered else gemma4_config(experts, layers, 1)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as place:
        base, out = Path(place) / "base", Path(place) / "out"
        base.mkdir()
        half = len(order) // 2
        parts = {"model-1.safetensors": order[:half], "model-2.safetensors": order[half:]}
        for shard, names in parts.items():
            write(base / shard, {name: tensors[name] for name in names})
        weight_map = {name: shard for shard, names in parts.items() for name in names}
        (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        (base / "config.json").write_text(json.dumps(config))
        plan = plan_build(open_checkpoint(base), DropMap(drop), base_name={"name": "b"}, max_shard_size=cap)
        build(plan, base, out, workers=1)
        require_the_librarys_shards(out, expected_of(tensors, drop, experts))


def require_the_librarys_shards(out: Path, expected: Mapping[str, Raw]) -> None:
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == expected.keys()
    for shard in set(index["weight_map"].values()):
        write(out / "reference", {name: expected[name] for name, where in index["weight_map"].items() if where == shard})
        assert (out / shard).read_bytes() == (out / "reference").read_bytes()
    assert index["metadata"]["total_size"] == sum(tensor.data.nbytes for tensor in expected.values())
