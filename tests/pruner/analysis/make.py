"""Hand-made expert statistics, and the model that they are checked against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pruner.statistics import ExpertStatistics, Header, QuestionSums, Sums, in_memory


def header_for(layer_count: int, experts: int, questions: int, **changes: Any) -> Header:
    values: dict[str, Any] = {
        "base": "b" * 64,
        "model_type": "gemma4",
        "tokenizer": "c" * 64,
        "template": "d" * 64,
        "reply_format": "e" * 64,
        "dataset": "f" * 64,
        "dataset_size": questions,
        "questions": tuple(f"{number:064x}" for number in range(questions)),
        "positions": tuple(range(questions)),
        "layers": tuple(range(layer_count)),
        "experts": experts,
        "top_k": 2,
        "max_tokens": 4096,
        "dtype": "bfloat16",
        "attention": "eager",
        "device": "cpu",
        "libraries": {"torch": "2.13.0"},
    }
    return Header(**{**values, **changes})


def sums_of(weighted_norm: Any, count: Any = None) -> Sums:
    """Sums whose weighted norm [Q, L, E] is given; the count defaults to 1 where the norm is not zero."""
    norm = np.asarray(weighted_norm, dtype=np.float64)
    counts = (norm != 0).astype(np.int64) if count is None else np.asarray(count, dtype=np.int64)
    return Sums(norm, norm**2, 2 * norm, 0.5 * counts, counts)


def statistics_of(weighted_norm: Any, count: Any = None, *, answer: Any = None, **header: Any) -> ExpertStatistics:
    norm = np.asarray(weighted_norm, dtype=np.float64)
    questions, layers, experts = norm.shape
    ones = np.ones(questions, dtype=np.int64)
    return in_memory(
        header_for(layers, experts, questions, **header),
        sums_of(norm, count),
        sums_of(norm if answer is None else answer, count if answer is None else None),
        tokens=100 * ones,
        answer_tokens=40 * ones,
        skipped=np.zeros((questions, layers), dtype=np.int64),
        truncated=0 * ones,
    )


def random_sums(random: np.random.Generator, *shape: int) -> Sums:
    """Sums as tokens could have made them, from one token to 4096, over many orders of magnitude."""
    count = random.integers(0, 4097, shape) >> random.integers(0, 13, shape)
    mean, norm, weight = (np.exp(random.normal(0, 1, shape)) for _ in range(3))
    spread = 1 + random.random(shape) * np.minimum(np.maximum(count - 1, 0), 4)
    return Sums(mean * count, spread * mean**2 * count, norm * count, weight * count, count)


def random_statistics(questions: int = 5, layers: int = 3, experts: int = 8, seed: int = 0, **header: Any) -> ExpertStatistics:
    """Noise, made anew for each question whenever it is asked for, so that memory holds one question."""
    random = np.random.default_rng(seed)

    def question(row: int) -> QuestionSums:
        own = np.random.default_rng([seed, row])
        return QuestionSums(random_sums(own, layers, experts), random_sums(own, layers, experts))

    return ExpertStatistics(
        header=header_for(layers, experts, questions, **header),
        tokens=random.integers(1, 4096, questions),
        answer_tokens=random.integers(1, 4096, questions),
        skipped=np.zeros((questions, layers), dtype=np.int64),
        truncated=random.integers(0, 2, questions),
        question=question,
    )


def load_plain(folder: Path) -> Any:
    """The model of a base with transformers' own experts, which nothing measures."""
    from pruner.analysis.model import attention_for, config_of, model_class

    chosen = {"attn_implementation": attention_for(folder)} if attention_for(folder) else {}
    model = model_class(config_of(folder)).from_pretrained(
        folder, dtype="auto", experts_implementation="eager", local_files_only=True, **chosen
    )
    return model.eval()
