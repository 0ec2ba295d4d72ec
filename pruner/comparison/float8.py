"""Values of 8-bit floating-point numbers, by their 256 codes.

Formats: OCP 8-bit Floating Point Specification 1.0 (E4M3 without infinities, E5M2), OCP Microscaling 1.0 (E8M0), and the FNUZ
forms of arXiv:2206.02915, which have neither infinities nor a minus zero: its code is their NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LAYOUTS: Mapping[str, tuple[int, int]] = {
    "F8_E4M3": (3, 7),
    "F8_E5M2": (2, 15),
    "F8_E4M3FNUZ": (3, 8),
    "F8_E5M2FNUZ": (2, 16),
}
"""Bits of the mantissa, and the bias of the exponent."""
SCALE, SCALE_BIAS = "F8_E8M0", 127
"""A power of two without a sign, the scale of a block."""
FLOAT8 = frozenset({*_LAYOUTS, SCALE})


@cache
def float8_values(dtype: str) -> NDArray[Any]:
    """Float32 [256]: the value of each code.  They are what is stored: a scale stands in a tensor of its own."""
    if dtype == SCALE:
        return np.array([*(2.0 ** (code - SCALE_BIAS) for code in range(255)), math.nan], np.float32)
    return np.array([_value(code, dtype) for code in range(256)], np.float32)


def _value(code: int, dtype: str) -> float:
    mantissa_bits, bias = _LAYOUTS[dtype]
    sign, magnitude = -1.0 if code & 0x80 else 1.0, code & 0x7F
    exponent, mantissa = magnitude >> mantissa_bits, magnitude & ((1 << mantissa_bits) - 1)
    if dtype.endswith("FNUZ"):
        if code == 0x80:  # noqa: PLR2004  # minus zero elsewhere
            return math.nan
    elif dtype == "F8_E4M3" and magnitude == 0x7F:  # noqa: PLR2004  # all ones
        return math.nan
    elif dtype == "F8_E5M2" and exponent == 0x1F:  # noqa: PLR2004  # all ones
        return math.nan if mantissa else sign * math.inf
    if exponent == 0:
        return sign * math.ldexp(mantissa, 1 - bias - mantissa_bits)
    return sign * math.ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits)
