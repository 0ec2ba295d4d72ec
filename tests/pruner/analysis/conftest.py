"""Tiny random models of every family, a tokenizer of bytes, a calibration set, and an independent recompute."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TEMPLATE = (
    "{{- bos_token -}}{%- if enable_thinking %}{{ '<|turn>system\\n<|think|><turn|>\\n' }}{% endif -%}"
    "{%- for m in messages -%}{{- '<|turn>' + m['role'] + '\\n' + (m['content'] | trim) + '<turn|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt %}{{ '<|turn>model\\n' }}{% endif -%}{#- <|channel> -#}"
)
SPECIAL = ["<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>"]
COMMON = {"vocab_size": 272, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1,
          "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "tie_word_embeddings": False}  # fmt: skip
FAMILIES = ("gemma4", "qwen3_moe", "olmoe", "mixtral", "gpt_oss")
EXPERTS, TOP_K = 8, 2


def save_tokenizer(folder: Path, template: str | None = TEMPLATE) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, extra_special_tokens=SPECIAL[3:], **names)
    fast.chat_template = template
    fast.save_pretrained(folder)


def family_model(family: str) -> Any:
    import transformers as t

    if family == "gemma4":
        text = t.Gemma4TextConfig(
            **{**COMMON, "tie_word_embeddings": True}, head_dim=16, global_head_dim=32, intermediate_size=16,
            moe_intermediate_size=16, enable_moe_block=True, num_experts=EXPERTS, top_k_experts=TOP_K,
            hidden_size_per_layer_input=0, sliding_window=512, num_kv_shared_layers=0,
            layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        )  # fmt: skip
        return t.Gemma4ForConditionalGeneration(t.Gemma4Config(text_config=text, vision_config=None, audio_config=None))
    if family == "qwen3_moe":
        return t.Qwen3MoeForCausalLM(
            t.Qwen3MoeConfig(**COMMON, head_dim=16, moe_intermediate_size=16, num_experts=EXPERTS, num_experts_per_tok=TOP_K,
                             mlp_only_layers=[1], norm_topk_prob=True)
        )  # fmt: skip
    if family == "olmoe":
        return t.OlmoeForCausalLM(t.OlmoeConfig(**COMMON, intermediate_size=16, num_experts=EXPERTS, num_experts_per_tok=TOP_K))
    if family == "mixtral":
        return t.MixtralForCausalLM(
            t.MixtralConfig(**COMMON, intermediate_size=16, num_local_experts=EXPERTS, num_experts_per_tok=TOP_K)
        )
    return t.GptOssForCausalLM(
        t.GptOssConfig(**COMMON, head_dim=16, intermediate_size=16, num_local_experts=EXPERTS, num_experts_per_tok=TOP_K,
                       layer_types=["sliding_attention", "full_attention", "sliding_attention"])
    )  # fmt: skip


def randomize(model: Any, seed: int = 0) -> None:
    """Fill every weight so that routing differs from token to token and per-expert scales and biases are not trivial."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            plain = parameter.ndim < 2 and "bias" not in name and "sinks" not in name
            parameter.copy_(1 + 0.2 * noise if plain else 0.3 * noise)


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folder of a tiny random model of a family; made once for each set of arguments."""
    made: dict[tuple[str, str], Path] = {}

    def make(family: str = "gemma4", dtype: str = "float32", change: Callable[[Any], None] | None = None) -> Path:
        if change is None and (family, dtype) in made:
            return made[family, dtype]
        import torch

        folder = tmp_path_factory.mktemp(f"{family}-{dtype}")
        model = family_model(family)
        randomize(model)
        if change is not None:
            change(model)
        model.to(getattr(torch, dtype)).save_pretrained(folder)
        save_tokenizer(folder)
        if change is None:
            made[family, dtype] = folder
        return folder

    return make


def row(number: int) -> dict[str, str]:
    return {
        "Record ID": f"r{number}",
        "Question": f"What is {number} plus {number * 7 % 11}?",
        "Correct Answer": str(number + number * 7 % 11),
        "Incorrect Answer 1": "none of these",
        "Incorrect Answer 2": f"{number}{number}",
        "Incorrect Answer 3": "zero",
        "Explanation": f"Count {number} up by {number * 7 % 11}" + " and so on" * (number % 4) + ".",
    }


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def calibration_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("calibration") / "calibration.jsonl", [row(number) for number in range(7)])


@pytest.fixture(scope="session")
def calibration(calibration_file: Path) -> Any:
    from pruner.calibration import read_calibration

    return read_calibration(calibration_file)


def broken(make_model: Callable[..., Path], folder: Path, name: str, change: Callable[[bytes], bytes] | None) -> Path:
    """A copy of the default model in which one file is changed, or missing."""
    shutil.copytree(make_model(), folder)
    if change is None:
        (folder / name).unlink()
    else:
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(change(before))
        assert (folder / name).read_bytes() != before
    return folder


MISNAMED = (b"layers.1.experts.down_proj", b"layers.1.experts.down_prok")
"""A tensor's name, and one of the same length that no model has."""

ANALYSIS = """
import os, signal, sys
from pathlib import Path
from pruner.analysis import analyze
from pruner.calibration import read_calibration
model, questions, records = map(Path, sys.argv[1:4])
def end_here(event, _words):
    if event == "os.rename" and len(list(records.glob(sys.argv[5]))) >= 3:
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(end_here)
analyze(model, read_calibration(questions), records=records, offload=sys.argv[4] == "layers")
"""
PROGRAM = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
"""Environment in which a child process finds this package."""

RESIDENT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from pruner.analysis import analyze
from pruner.calibration import read_calibration
from pruner.statistics import write_statistics
def peak():
    # Of this program alone: `ru_maxrss` also knows the process that it was forked from.
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
how, records, *words = sys.argv[1:]
for place, (folder, questions) in enumerate(zip(words[::2], words[1::2])):
    before = peak()
    questions = read_calibration(Path(questions))
    found = analyze(Path(folder), questions, records=Path(records) / str(place), offload=how == "layers")
    write_statistics(Path(records).with_suffix(".safetensors"), found)
print(peak() - before)
"""
NO_CACHES = {"LRU_CACHE_CAPACITY": "1", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "0", "MALLOC_ARENA_MAX": "1"}
"""torch keeps code for each shape that it has multiplied; that is none of what is measured."""
resident = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux")


def resident_growth(how: str, records: Path, *analyses: tuple[Path, Path]) -> int:
    """By how many bytes the last of several analyses (base, questions) in one process raised its largest resident set.

    This sees all memory, of torch too, and mapped files as far as they are read.
    """
    words = [str(each) for analysis in analyses for each in analysis]
    command = [sys.executable, "-c", RESIDENT, how, str(records), *words]
    output = subprocess.run(command, check=True, capture_output=True, text=True, env={**PROGRAM, **NO_CACHES}).stdout
    return int(output)


def killed_analysis(folder: Path, source: Path, records: Path, *, offload: str, until: str) -> None:
    """Run an analysis in a process that is killed as it writes the next file after three whose names match `until`."""
    command = [sys.executable, "-c", ANALYSIS, str(folder), str(source), str(records), offload, until]
    ended = subprocess.run(command, env=PROGRAM, check=False).returncode
    assert ended == -signal.SIGKILL, "the run ended before it could be killed"


Seen = dict[int, tuple[Any, Any, Any, Any]]


def watch(model: Any) -> Seen:
    """Layer → (experts module, hidden states, index, weights) of the last forward pass, through a plain hook."""
    from pruner.analysis.model import experts_modules

    seen: Seen = {}
    for layer, module in experts_modules(model):
        module.register_forward_pre_hook(lambda m, args, layer=layer: seen.__setitem__(layer, (m, *args)))
    return seen


def naive_output(module: Any, state: Any, expert: int) -> Any:
    """One expert's output for one token, in float64, by the family's own formula."""
    import torch

    if module.is_transposed:
        both = state @ module.gate_up_proj[expert].double() + module.gate_up_proj_bias[expert].double()
        gate, up = both[0::2].clamp(max=module.limit), both[1::2].clamp(-module.limit, module.limit)
        inner = (up + 1) * gate * torch.sigmoid(gate * module.alpha)
        return inner @ module.down_proj[expert].double() + module.down_proj_bias[expert].double()
    both = module.gate_up_proj[expert].double() @ state
    half = len(both) // 2
    return module.down_proj[expert].double() @ (module.act_fn(both[:half]) * both[half:])


def naive_sums(seen: Seen, experts: int, rows: Callable[[int], bool] = lambda _row: True) -> dict[str, Any]:
    """The five sums [L, E], token by token and expert by expert, in plain Python."""
    result = {
        name: np.zeros((len(seen), experts)) for name in ("weighted_norm", "weighted_norm_squared", "norm", "weight", "count")
    }
    for place, layer in enumerate(sorted(seen)):
        module, states, index, weights = seen[layer]
        for token in filter(rows, range(len(states))):
            for expert, weight in zip(index[token].tolist(), weights[token].double().tolist(), strict=True):
                output = naive_output(module, states[token].double(), expert).detach().numpy()
                result["weighted_norm"][place, expert] += np.linalg.norm(weight * output)
                result["weighted_norm_squared"][place, expert] += np.linalg.norm(weight * output) ** 2
                result["norm"][place, expert] += np.linalg.norm(output)
                result["weight"][place, expert] += weight
                result["count"][place, expert] += 1
    return result
