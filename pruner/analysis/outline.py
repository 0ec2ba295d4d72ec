"""A base without its weights: enough to say what would be measured, and to fill it layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruner.analysis.experts import IMPLEMENTATION, register
from pruner.analysis.model import (
    DTYPES,
    MeasuredModel,
    attention_for,
    config_of,
    loading_errors,
    measured_model,
    model_class,
    quiet_transformers,
)
from pruner.analysis.quantized import quantizer_of
from pruner.errors import InputError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Outline:
    """A measured model all of whose parameters are empty."""

    measured: MeasuredModel
    dtype: torch.dtype
    """Of the weights once they are loaded."""
    quantizer: Any | None
    """What unpacks the base's tensors; None when they are not packed."""

    @property
    def size(self) -> int:
        """Bytes of the weights in memory."""
        return sum(each.numel() * each.element_size() for each in self.measured.model.parameters())


def outline(folder: Path, *, dtype: str = "auto") -> Outline:
    """The model of a base, made from its config alone.

    Args:
        folder: a checkpoint in safetensors with its config; no code of the checkpoint is run.
        dtype: `auto` takes the config's own, or where it names none that of the first weights, as transformers does.

    Raises:
        InputError: the config cannot be used, or the model has no experts that transformers' registry runs.
        UnavailableError: unpacking the base needs a library that is not installed.
    """
    import torch

    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r}: must be one of {', '.join(DTYPES)}")
    register()
    options = {"attn_implementation": attention_for(folder), "experts_implementation": IMPLEMENTATION}
    given = {key: value for key, value in options.items() if value is not None}
    with loading_errors(folder), quiet_transformers():
        config = config_of(folder)
        quantizer = quantizer_of(config, folder)
        wanted = _dtype(config, dtype, folder)
        kind = model_class(config)
        make = getattr(kind, "_from_config", None) or kind.from_config
        with torch.device("meta"):
            model = make(config, dtype=wanted, **given).eval()
            if quantizer is not None:
                quantizer.preprocess_model(model=model, dtype=wanted)
                quantizer.postprocess_model(model)
    return Outline(measured_model(model, folder), wanted, quantizer)


def _dtype(config: Any, dtype: str, folder: Path) -> torch.dtype:
    import torch
    from transformers.modeling_utils import get_state_dict_dtype, load_state_dict

    found = (config.dtype or config.get_text_config().dtype) if dtype == "auto" else dtype
    if found is None:
        first = min(folder.glob("*.safetensors"), default=None)
        if first is None:
            raise InputError(f"{folder}: no .safetensors file; the base must be a folder with safetensors shards")
        found = get_state_dict_dtype(load_state_dict(first, map_location="meta"))
    result = getattr(torch, found) if isinstance(found, str) else found
    assert isinstance(result, torch.dtype)  # noqa: S101
    return result
