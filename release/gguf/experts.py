"""Where a GGUF keeps its experts: llama.cpp's architectures and tensor names as data.

Names and shapes are those of `src/llama-arch.cpp`, `src/models/*.cpp` and `conversion/*.py` of llama.cpp.  In all of them the
expert axis is ggml's last one, so an expert's bytes are one contiguous piece of its tensor, whatever the tensor's type.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pruner.errors import InputError
from pruner.families import FAMILIES, MOST_EXPERTS, MTP, Architecture, Groups, layer_order
from release.gguf.reader import GgufHeader, GgufTensor

MODEL_TYPES: Mapping[str, str] = {
    "gemma4": "gemma4",
    "qwen2moe": "qwen2_moe",
    "qwen3moe": "qwen3_moe",
    "qwen3next": "qwen3_next",
    "qwen35moe": "qwen3_5_moe",
    "olmoe": "olmoe",
    "llama": "mixtral",
    "deepseek2": "deepseek_v3",
    "gpt-oss": "gpt_oss",
}
"""Model type in config.json, and so the family, by `general.architecture`."""

_NUMBER = r"(?:0|[1-9][0-9]{0,8})"
_ROUTER = re.compile(rf"blk\.(?P<layer>{_NUMBER})\.(?:ffn_gate_inp\.(?:weight|bias)|exp_probs_b(?:\.(?:weight|bias))?)")
_EXPERTS = re.compile(rf"blk\.(?P<layer>{_NUMBER})\.ffn_(?:gate|up|down|gate_up)_exps\.(?:weight|bias|scale|input_scale)")
_WHOLE = re.compile(rf"blk\.{_NUMBER}\.(?:ffn_gate_inp\.scale|ffn_gate_inp_shexp\.\w+)")
"""Of the hidden size, or of the shared expert: pruning does not touch them."""
_SUSPECT = re.compile(r"exps|exp_probs|ffn_gate_inp|tid2eid|ffn_(?:gate|up|down)\.[0-9]+\.")
"""What belongs to experts in some layout; a name that is none of the above is refused instead of being copied unseen."""


@dataclass(frozen=True)
class GgufExperts:
    """The experts of one GGUF: `tensors` gives the layer, as drop maps name it, of every tensor with an expert axis.

    `routers` gives by layer the tensor whose rows tell experts apart.
    """

    architecture: Architecture
    tensors: Mapping[str, str]
    routers: Mapping[str, GgufTensor]

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers with experts, in order."""
        return tuple(sorted(self.routers, key=layer_order))


def find_experts(header: GgufHeader) -> GgufExperts:
    """Find the tensors of routers and experts and check that all can be cut.

    Raises:
        InputError: an architecture or a layout of experts that is not supported, or no experts at all.
    """
    architecture = _architecture(header)
    tensors: dict[str, str] = {}
    routers: dict[str, GgufTensor] = {}
    layers_with_experts = set()
    for tensor in header.tensors:
        router, experts = _ROUTER.fullmatch(tensor.name), _EXPERTS.fullmatch(tensor.name)
        match = router or experts
        if match is None:
            if _SUSPECT.search(tensor.name) and not _WHOLE.fullmatch(tensor.name):
                raise InputError(f"{header.path}: tensor {tensor.name!r} is a layout of experts that cannot be cut")
            continue
        layer = _layer_key(int(match["layer"]), architecture.layers)
        _require_expert_axis(header, tensor, architecture.experts)
        tensors[tensor.name] = layer
        if experts:
            layers_with_experts.add(layer)
        elif tensor.name.endswith(".ffn_gate_inp.weight"):
            routers[layer] = tensor
    if not routers or layers_with_experts != set(routers):
        odd = min(layers_with_experts ^ set(routers), key=layer_order, default="0")
        missing = "router" if odd in layers_with_experts else "experts"
        raise InputError(f"{header.path}: layer {odd} has no {missing} under a known name; it cannot be cut")
    return GgufExperts(architecture, tensors, routers)


def _architecture(header: GgufHeader) -> Architecture:
    name = header.architecture
    kind = header.value("general.type")
    if kind not in (None, "model"):
        raise InputError(f"{header.path}: general.type is {str(kind)[:40]!r}; only models have experts to cut")
    if name not in MODEL_TYPES:
        known = ", ".join(MODEL_TYPES)
        raise InputError(f"{header.path}: architecture {name[:40]!r} is not supported ({known}); see release/gguf/experts.py")
    family = next(family for family in FAMILIES if MODEL_TYPES[name] in family.model_types)
    experts, top_k = _count(header, f"{name}.expert_count"), _count(header, f"{name}.expert_used_count")
    blocks = _count(header, f"{name}.block_count")
    layers = blocks - _count(header, f"{name}.nextn_predict_layers", default=0, least=0)
    groups = _count(header, f"{name}.expert_group_count", default=1)
    picked = _count(header, f"{name}.expert_group_used_count", default=1)
    if layers < 1 or top_k > experts or experts % groups or picked > groups:
        raise InputError(
            f"{header.path}: {experts} experts in {groups} groups, {top_k} picked, {layers} layers do not fit together"
        )
    return Architecture(family, experts, top_k, layers, nested=False, groups=Groups(groups, picked) if groups > 1 else None)


def _count(header: GgufHeader, key: str, default: int | None = None, least: int = 1) -> int:
    value = header.value(key)
    if value is None and default is not None and key not in header.entries:
        return default
    if type(value) is not int or not least <= value <= MOST_EXPERTS:
        shown = "missing" if value is None else repr(value)[:40]
        raise InputError(f"{header.path}: {key} is {shown}, expected a number: is this a Mixture-of-Experts model?")
    return value


def _layer_key(number: int, layers: int) -> str:
    """Blocks behind the model's last layer are its multi-token prediction block, as in checkpoints."""
    if number < layers:
        return str(number)
    return f"{MTP}.{number - layers}" if number > layers else MTP


def _require_expert_axis(header: GgufHeader, tensor: GgufTensor, experts: int) -> None:
    whole_blocks = len(tensor.shape) > 1 or not tensor.type.quantized
    if tensor.shape[-1] != experts or not whole_blocks:
        raise InputError(
            f"{header.path}: tensor {tensor.name!r} of type {tensor.type.name} has the shape {list(tensor.shape)}, "
            f"not {experts} experts on its last axis; it cannot be cut"
        )
