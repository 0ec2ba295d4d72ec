"""Small Mixture-of-Experts checkpoints with the tiny model's tokenizer, and what pruning makes of them."""

from __future__ import annotations

import shutil
from pathlib import Path

from pruner.build import build
from pruner.checkpoint import open_checkpoint
from pruner.drop_map import DropMap
from pruner.plan import plan_build
from release.gguf.convert import convert
from release.gguf.toolchain import Toolchain

TOKENIZER = ("chat_template.jinja", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


def gemma4_checkpoint(
    folder: Path, tiny_model: Path, *, experts: int, width: int, dense: int = 96, layers: int = 8, seed: int = 7
) -> Path:
    """A Gemma 4 MoE of random weights whose experts have rows of 256 and `width`; `dense` is the dense MLP's row length."""
    import torch
    from transformers import Gemma4Config, Gemma4ForConditionalGeneration, Gemma4TextConfig

    text = Gemma4TextConfig(
        vocab_size=1160,
        hidden_size=256,
        intermediate_size=dense,
        num_hidden_layers=layers,
        layer_types=(["sliding_attention"] * 3 + ["full_attention"]) * (layers // 4),
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        global_head_dim=64,
        num_global_key_value_heads=1,
        attention_k_eq_v=True,
        sliding_window=128,
        max_position_embeddings=512,
        enable_moe_block=True,
        num_experts=experts,
        top_k_experts=2,
        moe_intermediate_size=width,
        hidden_size_per_layer_input=0,
        num_kv_shared_layers=0,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Gemma4ForConditionalGeneration(
        Gemma4Config(text_config=text, vision_config=None, audio_config=None, tie_word_embeddings=True)
    )
    for parameter in model.parameters():
        parameter.data.normal_(std=0.05)  # no two experts alike, and no scale that is one
    model.to(torch.bfloat16).save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copy(tiny_model / name, folder / name)
    return folder


def drop_some(layers: int, experts: int, kept: int) -> DropMap:
    """A map that drops other experts in each layer, first and last ones among them."""
    step = [{(5 * layer + 3 * place) % experts for place in range(experts)} for layer in range(layers)]
    order = [sorted(step[layer], key=lambda expert, layer=layer: (7 * expert + 3 * layer) % experts) for layer in range(layers)]
    return DropMap({str(layer): tuple(sorted(order[layer][: experts - kept])) for layer in range(layers)})


def converted(toolchain: Toolchain, checkpoint: Path, target: Path, name: str) -> Path:
    convert(toolchain, checkpoint, target, model_name=name, log=target.with_suffix(".log"))
    return target


def pruned(checkpoint: Path, drop_map: DropMap, target: Path) -> Path:
    plan = plan_build(open_checkpoint(checkpoint), drop_map, base_name={"name": "base"}, max_shard_size=1 << 30)
    build(plan, checkpoint, target, workers=1)
    return target
