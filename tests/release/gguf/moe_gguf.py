"""Small GGUFs of each architecture, written by the gguf package, whole or with experts taken out by numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

EXPERTS, TOP_K, WIDTH, HIDDEN = 8, 2, 32, 64
Arrays = dict[str, tuple[np.ndarray[Any, Any], gguf.GGMLQuantizationType | None]]
SPLIT = ("ffn_gate_exps.weight", "ffn_up_exps.weight", "ffn_down_exps.weight")
FUSED = ("ffn_gate_up_exps.weight", "ffn_down_exps.weight")
BIASES = ("ffn_gate_inp.bias", "ffn_gate_exps.bias", "ffn_up_exps.bias", "ffn_down_exps.bias")
SHARED = ("ffn_gate_inp_shexp.weight", "ffn_gate_shexp.weight")
LAYOUTS: Mapping[str, tuple[str, ...]] = {
    "gemma4": (*FUSED, "ffn_gate_inp.scale", "ffn_down_exps.scale"),
    "qwen2moe": (*SPLIT, *SHARED),
    "qwen3moe": SPLIT,
    "qwen3next": (*FUSED, *SHARED),
    "qwen35moe": (*SPLIT, "ffn_up_exps.input_scale", *SHARED),
    "olmoe": SPLIT,
    "llama": SPLIT,
    "deepseek2": (*SPLIT, "exp_probs_b.bias", "ffn_gate_shexp.weight"),
    "gpt-oss": (*SPLIT, *BIASES),
}
"""Tensors of a layer beside `ffn_gate_inp.weight`, which all have."""


def arrays_of(arch: str, layers: Sequence[int], experts: int = EXPERTS, seed: int = 0) -> Arrays:
    """Random arrays in numpy's order: experts first."""
    chance = np.random.default_rng(seed)

    def q8(*shape: int) -> tuple[np.ndarray[Any, Any], gguf.GGMLQuantizationType]:
        raw = chance.integers(0, 256, (*shape[:-1], shape[-1] // 32 * 34), dtype=np.uint8)
        return raw, gguf.GGMLQuantizationType.Q8_0

    def f32(*shape: int) -> tuple[np.ndarray[Any, Any], None]:
        return chance.standard_normal(shape).astype(np.float32), None

    result: Arrays = {"token_embd.weight": q8(20, HIDDEN)}
    for layer in layers:
        result[f"blk.{layer}.attn_norm.weight"] = f32(HIDDEN)
        result[f"blk.{layer}.ffn_gate_inp.weight"] = f32(experts, HIDDEN)
        for name in LAYOUTS[arch]:
            kind = name.rpartition(".")[2]
            if name == "ffn_gate_inp.scale":
                made: Any = f32(HIDDEN)
            elif "shexp" in name:
                made = f32(HIDDEN) if "inp" in name else q8(WIDTH, HIDDEN)
            elif name in ("ffn_gate_inp.bias", "exp_probs_b.bias") or kind in ("scale", "input_scale"):
                made = f32(experts)
            elif kind == "bias":
                made = f32(experts, WIDTH)
            else:
                made = q8(experts, HIDDEN, WIDTH) if "down" in name else q8(experts, WIDTH, HIDDEN)
            result[f"blk.{layer}.{name}"] = made
    return result


def is_cut(name: str) -> bool:
    """A rule of the tests' own: what has a row for each expert."""
    return "_exps." in name or "exp_probs" in name or name.endswith(("ffn_gate_inp.weight", "ffn_gate_inp.bias"))


def sliced(arrays: Arrays, keep: Mapping[int, Sequence[int]]) -> Arrays:
    """What numpy indexing leaves."""
    return {
        name: (array[list(keep[int(name.split(".")[1])])] if is_cut(name) else array, kind)
        for name, (array, kind) in arrays.items()
    }


def write_moe(
    path: Path,
    arch: str,
    arrays: Arrays,
    *,
    experts: int,
    names: Mapping[str, str],
    blocks: int = 3,
    numbers: Mapping[str, int] | None = None,
    alignment: int | None = None,
    tokens: int = 5000,
    **options: Any,
) -> Path:
    """Write a GGUF in the converter's order of keys; `options` are GGUFWriter's own."""
    writer = gguf.GGUFWriter(path, arch, **options)
    if alignment:
        writer.add_custom_alignment(alignment)
    writer.add_type("model")
    for key, value in names.items():
        writer.add_string(key, value)
    writer.add_string("general.license", "apache-2.0")
    writer.add_block_count(blocks)
    writer.add_expert_count(experts)
    writer.add_expert_used_count(TOP_K)
    for key, number in (numbers or {}).items():
        writer.add_uint32(f"{arch}.{key}", number)
    writer.add_token_list([f"token{index}" for index in range(tokens)])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    for name, (array, kind) in arrays.items():
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_split_moe(
    path: Path, arrays: Arrays, *, experts: int, tensors: int, blocks: int = 3, tokens: int = 5000
) -> list[Path]:
    """The same in parts of so many tensors, as gguf-py splits a GGUF; the parts."""
    options = {"experts": experts, "names": BASE_NAMES, "blocks": blocks, "tokens": tokens, "split_max_tensors": tensors}
    write_moe(path, "gemma4", arrays, **options)
    return sorted(path.parent.glob(f"{path.stem}-*-of-*.gguf"))


KEEP = {0: (0, 1, 4, 7), 1: (1, 2, 3, 6), 2: (2, 4, 5, 6)}
DROP = {str(layer): tuple(sorted({*range(EXPERTS)} - {*kept})) for layer, kept in KEEP.items()}
BASE_NAMES = {"general.name": "Base", "general.author": "someone", "general.basename": "Base", "general.size_label": "8x2K"}


def base_and_variant(folder: Path, arch: str = "gemma4", **options: Any) -> tuple[Path, Path]:
    """A base's GGUF and the one that a cut under the name `cut` and the map DROP must equal."""
    arrays = arrays_of(arch, (0, 1, 2))
    base = write_moe(folder / "base-Q8_0.gguf", arch, arrays, experts=EXPERTS, names=BASE_NAMES, **options)
    kept = sliced(arrays, KEEP)
    names = {"general.name": "cut", "general.author": "someone", "general.size_label": label_of(kept)}
    variant = write_moe(folder / "expected.gguf", arch, kept, experts=4, names=names, **options)
    return base, variant


def label_of(arrays: Arrays) -> str:
    """The size label by gguf-py's own writer."""
    writer = gguf.GGUFWriter(None, "x", dry_run=True)
    for name, (array, kind) in arrays.items():
        writer.add_tensor_info(name, array.shape, array.dtype, array.nbytes, raw_dtype=kind)
    return gguf.size_label(*writer.get_total_parameter_count())
