# ruff: noqa: INP001 - a script, not a package
"""How much the measuring costs: CPU time of a forward pass with it, over the same pass without.

    python bench/experts_overhead.py [--tokens 1024] [--rounds 5] [--dtype bfloat16] [--most 1.05] [--tiny]

One random Gemma 4 MoE is run through the model's default experts implementation, through the families' own loop (`eager`) and
through `measured_experts`, in turns, on one thread.  The figure is the ratio of the medians of the process's CPU time; the exit
code is 1 when measuring costs more than `--most` times the default.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import Gemma4Config, Gemma4ForConditionalGeneration, Gemma4TextConfig

from pruner.analysis.experts import IMPLEMENTATION, RECORDER, Recorder, register
from pruner.analysis.model import MeasuredModel, experts_modules
from pruner.analysis.run import measure_question
from pruner.calibration import RenderedQuestion

EXPERTS, TOP_K, LAYERS = 16, 8, 2
REAL = {"hidden_size": 2816, "intermediate_size": 2112, "moe_intermediate_size": 704, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 256, "global_head_dim": 512}  # fmt: skip
TINY = {"hidden_size": 32, "intermediate_size": 16, "moe_intermediate_size": 16, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "global_head_dim": 32}  # fmt: skip


def random_model(dtype: torch.dtype, sizes: dict[str, int]) -> Any:
    """A Gemma 4 MoE with experts of the real 26B-A4B's size (or tiny ones), but only two layers of 16 experts."""
    text = Gemma4TextConfig(
        **sizes, vocab_size=1024, num_hidden_layers=LAYERS, enable_moe_block=True, num_experts=EXPERTS,
        top_k_experts=TOP_K, hidden_size_per_layer_input=0, num_kv_shared_layers=0, sliding_window=512,
        layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    torch.manual_seed(0)
    model = Gemma4ForConditionalGeneration(Gemma4Config(text_config=text, vision_config=None, audio_config=None))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter.data, std=0.05)
    return model.to(dtype).eval()


def measured_pass(model: Any, question: RenderedQuestion) -> Callable[[], object]:
    """The whole of what the analysis does for a question, sums included."""
    modules = [module for _, module in experts_modules(model)]
    recorders = tuple(Recorder() for _ in modules)
    for module, recorder in zip(modules, recorders, strict=True):
        setattr(module, RECORDER, recorder)
    measured = MeasuredModel(model, tuple(range(LAYERS)), recorders, EXPERTS, TOP_K, "gemma4", "sdpa", str(model.dtype))
    return lambda: measure_question(measured, question)


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of the process for one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> int:
    """Print one line per implementation: median seconds, and the ratio to the default implementation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--most", type=float, default=1.05, help="largest ratio of measuring to the default")
    parser.add_argument("--tiny", action="store_true", help="a model of kilobytes, to see that this runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    register()
    model = random_model(getattr(torch, options.dtype), TINY if options.tiny else REAL)
    own = str(model.get_experts_implementation()["text_config"])  # what nobody chose
    token_ids = torch.randint(0, 1024, (options.tokens,), generator=torch.Generator().manual_seed(0))
    question = RenderedQuestion(tuple(token_ids.tolist()), options.tokens // 2, truncated=False, digest="")

    def plain() -> None:
        with torch.inference_mode():
            model(input_ids=token_ids[None], use_cache=False, logits_to_keep=1)

    default = f"default ({own})"
    ways = {default: (own, plain), "eager": ("eager", plain),
            "measured": (IMPLEMENTATION, measured_pass(model, question))}  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(options.rounds + 1):
        for name, (implementation, work) in ways.items():
            model.set_experts_implementation(implementation)
            spent = cpu_seconds(work)
            if turn:  # the first turn warms the caches
                seconds[name].append(spent)
    medians = {name: statistics.median(spent) for name, spent in seconds.items()}
    for name, spent in medians.items():
        print(f"{name:22} {spent:8.3f} s CPU   ratio {spent / medians[default]:.3f}")
    return int(medians["measured"] > options.most * medians[default])


if __name__ == "__main__":
    sys.exit(main())
