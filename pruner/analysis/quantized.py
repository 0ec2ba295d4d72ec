"""Bases that are published in a packed form, such as gpt-oss in MXFP4: their experts are unpacked before they are measured.

transformers would run packed experts through kernels of their own, which look at no expert; where a packed base is measured
must not decide how it is computed either.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruner.errors import InputError

UNPACKED = {"mxfp4": "Mxfp4Config", "fp8": "FineGrainedFP8Config"}
"""`quant_method` of config.json → transformers' class that takes `dequantize=True`."""


def unpacking(config: Any, folder: Path) -> Any | None:
    """What tells transformers to unpack a base while it is loaded; None when nothing is packed.

    Raises:
        InputError: the base is packed in a way that cannot be unpacked.
    """
    import transformers

    packed = getattr(config, "quantization_config", None) or getattr(config.get_text_config(), "quantization_config", None)
    if packed is None:
        return None
    method = packed.get("quant_method") if isinstance(packed, Mapping) else packed.quant_method
    name = UNPACKED.get(str(getattr(method, "value", method)))
    if name is None:
        known = " or ".join(UNPACKED)
        raise InputError(
            f"{folder}: is quantized by {method}, which cannot be unpacked; name a base that is not, or in {known}"
        )
    return getattr(transformers, name)(dequantize=True)


def quantizer_of(config: Any, folder: Path) -> Any | None:
    """The quantizer of transformers for a base that is loaded part by part, set to unpack; None when nothing is packed.

    Raises:
        InputError: see `unpacking`.
        ImportError: transformers wants a library that is not installed.
    """
    from transformers.quantizers.auto import get_hf_quantizer

    wanted = unpacking(config, folder)
    return None if wanted is None else get_hf_quantizer(config, wanted, None, False, {})[0]  # noqa: FBT003 - not our function
