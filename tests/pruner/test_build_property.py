"""Hundreds of generated checkpoints: every shard equals what the library writes for slices that numpy takes."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from pruner.build import build
from pruner.checkpoint import open_checkpoint
from pruner.drop_map import DropMap
from pruner.plan import plan_build
from pruner.safetensors_format import Metadata
from tests.conftest import gemma4_config

DTYPES = [np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_]
Tensors = dict[str, np.ndarray[Any, Any]]
LAYER = "model.language_model.layers"


@st.composite
def checkpoints(draw: st.DrawFn) -> tuple[Tensors, list[list[str]], int, int]:
    """Tensors, names by base shard in index order, experts, layers: any shapes, dtypes, orders and splits."""
    experts, layers = draw(st.integers(2, 9)), draw(st.integers(1, 3))
    size = st.integers(1, 5)
    shapes: dict[str, tuple[int, ...]] = {"model.language_model.embed_tokens.weight": (draw(size), draw(size))}
    for layer in range(layers):
        shapes[f"{LAYER}.{layer}.router.proj.weight"] = (experts, draw(size))
        shapes[f"{LAYER}.{layer}.router.per_expert_scale"] = (experts,)
        shapes[f"{LAYER}.{layer}.experts.gate_up_proj"] = (experts, draw(size), draw(size))
        shapes[f"{LAYER}.{layer}.experts.down_proj"] = (experts, draw(size), draw(size))
    for extra in draw(
        st.lists(st.sampled_from(["lm_head.weight", "scalar", "ünï.weight", 'quote".x', "a", "z.10", "z.9"]), unique=True)
    ):
        shapes[extra] = draw(st.sampled_from([(), (3,), (2, 2), (0, 4)]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tensors = {}
    for name, shape in shapes.items():
        dtype = np.dtype(draw(st.sampled_from(DTYPES)))
        count = int(np.prod(shape, dtype=np.int64))
        raw = random.integers(0, 2, count, dtype=np.uint8).astype(np.bool_) if dtype == np.bool_ else None
        tensors[name] = (raw if raw is not None else random.integers(-100, 100, count).astype(dtype)).reshape(shape)
    order = draw(st.permutations(list(tensors)))
    cuts = sorted(draw(st.sets(st.integers(1, len(order) - 1), max_size=3)))
    groups = [list(order[start:end]) for start, end in zip([0, *cuts], [*cuts, len(order)], strict=True)]
    return tensors, groups, experts, layers


def write_base(folder: Path, tensors: Tensors, groups: list[list[str]], experts: int, layers: int) -> None:
    weight_map = {}
    for number, names in enumerate(groups):
        shard = f"model-{number:05d}.safetensors"
        save_file({name: tensors[name] for name in names}, folder / shard)
        weight_map |= dict.fromkeys(names, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(gemma4_config(experts, layers, top_k=1)))


@settings(max_examples=300)
@given(data=st.data(), checkpoint=checkpoints(), cap=st.integers(1, 3000), metadata=st.sampled_from(["none", "pt"]))
def test_shards_equal_save_files(
    data: st.DataObject, checkpoint: tuple[Tensors, list[list[str]], int, int], cap: int, metadata: Metadata
) -> None:
    tensors, groups, experts, layers = checkpoint
    kept = data.draw(st.integers(1, experts - 1), label="kept")
    drop = {str(layer): tuple(sorted(data.draw(st.permutations(range(experts)))[kept:])) for layer in range(layers)}
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        folder = Path(name)
        (folder / "base").mkdir()
        write_base(folder / "base", tensors, groups, experts, layers)
        plan = plan_build(
            open_checkpoint(folder / "base"), DropMap(drop), base_name={"name": "b"}, max_shard_size=cap, metadata=metadata
        )
        build(plan, folder / "base", folder / "out", workers=data.draw(st.sampled_from([1, 3]), label="workers"))
        weight_map = json.loads((folder / "out" / "model.safetensors.index.json").read_text())["weight_map"]
        assert weight_map.keys() == tensors.keys()
        sliced = {name: _kept(name, array, drop, experts) for name, array in tensors.items()}
        for shard in set(weight_map.values()):
            part = {name: sliced[name] for name, where in weight_map.items() if where == shard}
            assert len(part) == 1 or sum(array.nbytes for array in part.values()) <= cap
            save_file(part, folder / "reference", metadata={"format": "pt"} if metadata == "pt" else None)
            assert (folder / "out" / shard).read_bytes() == (folder / "reference").read_bytes()


def _kept(name: str, array: np.ndarray[Any, Any], drop: dict[str, tuple[int, ...]], experts: int) -> np.ndarray[Any, Any]:
    if not name.startswith(LAYER):
        return array
    layer = name.removeprefix(f"{LAYER}.").split(".")[0]
    return array[[expert for expert in range(experts) if expert not in drop[layer]]]
