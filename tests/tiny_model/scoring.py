"""Greedy replies of the tiny model, whole or pruned, in transformers: what the release's own scores are checked against.

Run `python -m tests.tiny_model.scoring manifests/tiny` to see how far the maps stand apart.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from pruner.analysis import analyze
from pruner.calibration import CalibrationSet, Question, prompt_text, read_calibration
from pruner.ranking import Kept, coverage, inverted, keep_experts, random_ranking
from pruner.statistics import ExpertStatistics

if TYPE_CHECKING:
    from transformers import Gemma4ForConditionalGeneration, GemmaTokenizer

KEPT = 4
PROTECTED = 2
"""A question protects its two strongest experts, because a field has two at home; as manifests/tiny-gemma4-4e.yaml does."""
RANDOM_SEEDS = range(3)
BATCH = 240
LONGEST_REPLY = 56


@dataclass(frozen=True)
class TinyModel:
    """A model in float32 with its tokenizer."""

    model: Gemma4ForConditionalGeneration
    tokenizer: GemmaTokenizer


def load_tiny(folder: Path) -> TinyModel:
    """Load a saved tiny model from its folder."""
    from transformers import AutoTokenizer, Gemma4ForConditionalGeneration

    model = Gemma4ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return TinyModel(model.eval(), AutoTokenizer.from_pretrained(folder))


def prune(tiny: TinyModel, keep: Kept) -> TinyModel:
    """A copy in memory that holds only some experts of each layer, equally many in all."""
    model = copy.deepcopy(tiny.model)
    model.config.text_config.num_experts = len(keep[0])
    for layer, kept in zip(model.model.language_model.layers, keep, strict=True):
        rows = torch.tensor(sorted(kept))
        for parameter in (
            layer.router.proj.weight,
            layer.router.per_expert_scale,
            layer.experts.gate_up_proj,
            layer.experts.down_proj,
        ):
            parameter.data = parameter.data[rows]
        layer.router.config.num_experts = layer.experts.num_experts = len(rows)
    return TinyModel(model, tiny.tokenizer)


def prompt(tiny: TinyModel, question: Question, *, thinking: bool = True, prefill: str = "") -> str:
    """The text that the model continues."""
    user = [{"role": "user", "content": prompt_text(question)}]
    text = tiny.tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=True, enable_thinking=thinking)
    return f"{text}{prefill}"


def replies(tiny: TinyModel, prompts: Sequence[str], *, most_tokens: int = LONGEST_REPLY) -> list[list[int]]:
    """Greedy replies as token ids, ended by <turn|> or by the limit."""
    end = tiny.tokenizer.convert_tokens_to_ids("<turn|>")
    made: list[list[int]] = []
    for first in range(0, len(prompts), BATCH):
        inputs = tiny.tokenizer(
            list(prompts[first : first + BATCH]), return_tensors="pt", padding=True, add_special_tokens=False
        )
        with torch.no_grad():
            output = tiny.model.generate(
                **inputs, max_new_tokens=most_tokens, do_sample=False, pad_token_id=0, eos_token_id=end
            )
        rows = output[:, inputs["input_ids"].shape[1] :].tolist()
        made.extend(row[: row.index(end) + 1] if end in row else row for row in rows)
    return made


def accuracy(tiny: TinyModel, questions: CalibrationSet) -> float:
    """Share of the questions whose reply, with thinking, ends in the right answer."""
    texts = tiny.tokenizer.batch_decode(replies(tiny, [prompt(tiny, question) for question in questions]))
    endings = [f"<channel|>The answer is ({question.letter}).<turn|>" for question in questions]
    return fmean(text.endswith(ending) for text, ending in zip(texts, endings, strict=True))


def direct_accuracy(tiny: TinyModel, questions: CalibrationSet) -> float:
    """Share of right letters where the answer is asked without a thought, as the patch pass asks."""
    prompts = [prompt(tiny, question, thinking=False, prefill="The answer is (") for question in questions]
    texts = tiny.tokenizer.batch_decode(replies(tiny, prompts, most_tokens=1))
    return fmean(text == question.letter for text, question in zip(texts, questions, strict=True))


def maps(statistics: ExpertStatistics, kept: int = KEPT) -> Mapping[str, Kept]:
    """The product's own maps, by name: teacher-force, its inversion, and three at random."""
    order = coverage(statistics, protect=PROTECTED, tokens="answer")
    orders = {"teacher-force": order, "inverted": inverted(order)}
    orders |= {f"random {seed}": random_ranking(len(order), statistics.header.experts, seed) for seed in RANDOM_SEEDS}
    return {name: keep_experts(ranked, kept) for name, ranked in orders.items()}


def compare(folder: Path, calibration: CalibrationSet, held_out: CalibrationSet, kept: int = KEPT) -> Mapping[str, float]:
    """Held-out accuracy of the model in `folder` and of its pruned variants, by name."""
    with TemporaryDirectory() as records:
        kept_by = maps(analyze(folder, calibration, records=Path(records)), kept)
    tiny = load_tiny(folder)
    variants = {name: prune(tiny, keep) for name, keep in kept_by.items()}
    return {name: accuracy(variant, held_out) for name, variant in {"full": tiny, **variants}.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and print the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder with model/ and exam/")
    parser.add_argument("--model", type=Path, help="another model's folder (default: FOLDER/model)")
    parser.add_argument("--kept", type=int, default=KEPT, help="experts to keep (default: %(default)s)")
    options = parser.parse_args(arguments)
    model = options.model or options.folder / "model"
    held_out = read_calibration(options.folder / "exam" / "held_out.jsonl")
    calibration = read_calibration(options.folder / "exam" / "calibration.jsonl")
    scores = {**compare(model, calibration, held_out, options.kept), "direct": direct_accuracy(load_tiny(model), held_out)}
    for name, score in scores.items():
        sys.stdout.write(f"{name:14} {score:.3f}\n")


if __name__ == "__main__":
    main()
