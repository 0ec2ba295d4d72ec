"""Architecture facts that are not those of config.json; only where the repository's files are a folder that holds it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from release.card.lint.document import Document
from release.card.lint.facts import stated_facts
from release.card.lint.finding import Finding
from release.card.lint.knowledge import Knowledge

KIND = "architecture"
KEYS: Mapping[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers",),
    "hidden size": ("hidden_size",),
    "expert intermediate size": ("moe_intermediate_size",),
    "experts per layer": ("num_experts", "num_local_experts", "n_routed_experts"),
    "experts per token": ("num_experts_per_tok", "top_k_experts"),
    "vocabulary": ("vocab_size",),
    "context length": ("max_position_embeddings",),
}
HEAD = re.compile(r"\bhead_dim\s?[=:]\s?(?P<value>\d{1,6})(?!\d)")


def find(document: Document, knowledge: Knowledge) -> Iterator[Finding]:
    """Facts of lists and tables, and head_dim wherever it is written."""
    config = knowledge.config
    if config is None:
        return
    for fact in stated_facts(document):
        known = next((config[key] for key in KEYS[fact.key] if type(config.get(key)) is int), None)
        if known is not None and not fact.value.scaled.low <= known <= fact.value.scaled.high:
            yield Finding(fact.number, KIND, f"{fact.key} is {known} in config.json, the card says {fact.value.text.strip()}")
    for line in document.lines:
        for match in HEAD.finditer(line.text):
            yield from _head(line.number, int(match["value"]), config)


def _head(number: int, value: int, config: Mapping[str, Any]) -> Iterator[Finding]:
    """A model whose global layers have longer heads has two numbers, and a card that gives one of them misleads."""
    plain, wide = config.get("head_dim"), config.get("global_head_dim")
    if type(plain) is not int or value == plain:
        return
    types = config.get("layer_types")
    count = (
        f"{types.count('full_attention')} of {len(types)} layers" if isinstance(types, list) and types else "the global layers"
    )
    where = f"; {value} holds for {count} alone" if value == wide else ""
    yield Finding(number, KIND, f"head_dim is {plain} in config.json, the card says {value}{where}")
