"""What a GGUF says of its model's name: the metadata that llama.cpp's converter derives from a name and from shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping

ORDER = (
    "general.name",
    "general.author",
    "general.version",
    "general.organization",
    "general.finetune",
    "general.basename",
    "general.description",
    "general.quantized_by",
    "general.size_label",
)
"""Keys that name a model, in the order in which the converter writes them (`Metadata.set_gguf_meta_model` of gguf-py)."""
_STACKED = 3
"""Dimensions of a tensor that holds one matrix for each expert."""


def name_entries(name: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str | None]:
    """Values of the keys that depend on the name or on the number of experts; None for a key that is not written.

    The rules are gguf-py's own (`Metadata.get_model_id_components`, `GGUFWriter.get_total_parameter_count`, `size_label`).

    Args:
        name: what the converter got as `--model-name`, which is also the name of the folder it read.
        shapes: of the model's tensors by name, in ggml's order (row length first).
    """
    from gguf import Metadata
    from gguf.utility import size_label

    total = sum(math.prod(shape) for shape in shapes.values())
    _, _, basename, finetune, version, label = Metadata.get_model_id_components(name, total)
    return {
        "general.name": name,
        "general.version": version,
        "general.finetune": finetune,
        "general.basename": basename,
        "general.size_label": label or (size_label(total, *_expert_parameters(shapes)) if total else None),
    }


def _expert_parameters(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int, int]:
    """Parameters that all tokens share, parameters of one expert of each layer, and experts."""
    stacked = {key: shape for key, shape in shapes.items() if "_exps." in key and len(shape) >= _STACKED}
    counts = [shape[1 if ".bias" in key else 2] for key, shape in stacked.items()]
    per_expert = sum(math.prod(shape) // count for shape, count in zip(stacked.values(), counts, strict=True))
    shared = sum(math.prod(shape) for key, shape in shapes.items() if key not in stacked)
    return shared, per_expert, sum(counts) // len(counts) if counts else 0
