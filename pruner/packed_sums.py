"""Sums over tokens, and how the statistics file holds them: 13 bytes and one bit per expert, six digits of every number.

Five numbers per question, layer and expert, over two scopes of tokens, are 27 MB as float32 for 196 questions x 30 layers x 128
experts.  Leaving out experts that no token reached saves too little: with eight of 128 experts a token, most are reached within
a hundred tokens.  So the file holds each sum over the power of two above its count, which is a mean but for a factor of two:
its range is narrow, and sums that are equal stay equal.  These are floating-point numbers of 23 bits: 19 bits of mantissa
(relative error at most 2^-20, which is below 1e-6), and 4 of exponent below that of the largest one of the question and layer.
The sum of squares is held as the mean square over the square of the mean, which lies between 1 and the count.  The count minus
one fills what is left: 8 bits of its own, and one bit above each of the four numbers.

Scaled sums below 2^-15 of the largest one of their question and layer lose digits, as subnormal numbers do, and end at 2^-35.
Writing what was read gives the same bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.int64]
Codes: TypeAlias = NDArray[np.uint32]

MANTISSA = 19
TOP = 15
"""Exponent field of a row's largest value, which is in [2^(e-1), 2^e) for the row's exponent e."""
SCALED = ("weighted_norm", "norm", "weight")
"""Sums that are scaled by their count, with an exponent per row."""
SPREAD = "spread"
"""count · Σn² / (Σn)², the ratio of the mean square to the square of the mean."""
SPREAD_EXPONENT = np.int32(TOP)
"""Of all spreads: 1 has the field 1, and the largest field, 15, ends at 2^15."""
MOST_TOKENS = (1 << 15) - 1
"""No spread is larger than its count, so that a spread fits as long as counts do."""
CODES = (*SCALED, SPREAD)
DAMAGED = np.iinfo(np.int16).min
"""Exponent of a row in which a sum is not finite; all that it reached is then read as NaN."""
COMMON_TOKENS = 4096
"""With this many tokens a question or fewer, counts need no further byte."""


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over the tokens of one scope, each [..., L, E]; n = ‖routing weight · expert output‖₂ of one token and expert."""

    weighted_norm: Floats
    """Σ n."""
    weighted_norm_squared: Floats
    """Σ n²."""
    norm: Floats
    """Σ ‖expert output‖₂, without the routing weight."""
    weight: Floats
    """Σ routing weight."""
    count: Counts
    """Number of tokens that were routed to the expert."""


NAMES = tuple(field.name for field in dataclasses.fields(Sums))


def layout(layers: int, experts: int, max_tokens: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype (as safetensors names it) and shape of each packed array of one question."""
    arrays: dict[str, tuple[str, tuple[int, ...]]] = dict.fromkeys(CODES, ("U8", (layers, experts, 3)))
    arrays |= {f"{name}.exponent": ("I16", (layers,)) for name in SCALED}
    arrays |= {"count": ("U8", (layers, experts)), "weight.negative": ("U8", (layers, (experts + 7) // 8))}
    if max_tokens > COMMON_TOKENS:
        arrays["count.high"] = ("U8", (layers, experts))
    return arrays


def pack(sums: Sums, max_tokens: int) -> dict[str, NDArray[Any]]:
    """The packed arrays of one question's sums [L, E]; see `layout`.

    Raises:
        ValueError: the sums are of no tokens: a count beyond `max_tokens`, or a sum without a token.
    """
    if sums.count.min(initial=0) < 0 or sums.count.max(initial=0) > max_tokens:
        raise ValueError(f"an expert's count of tokens is not 0 to {max_tokens}")
    if any(np.any(getattr(sums, name)[sums.count == 0]) for name in NAMES):
        raise ValueError("an expert that no token was routed to has a sum")
    arrays: dict[str, NDArray[Any]] = {}
    codes: dict[str, Codes] = {}
    for name, values in (("weighted_norm", _norms(sums)), ("norm", sums.norm), ("weight", np.abs(sums.weight))):
        codes[name], arrays[f"{name}.exponent"] = _scaled(values, sums.count)
    codes[SPREAD] = _codes(_spread(sums), SPREAD_EXPONENT)
    rest = np.where(sums.count > 0, sums.count - 1, 0).astype(np.uint32)
    for bit, name in enumerate(CODES):
        word = codes[name] | ((rest >> (8 + bit)) & 1) << 23
        arrays[name] = word[..., None].astype("<u4").view(np.uint8)[..., :3]
    arrays["count"] = (rest & 255).astype(np.uint8)
    if max_tokens > COMMON_TOKENS:
        arrays["count.high"] = (rest >> 12).astype(np.uint8)
    arrays["weight.negative"] = np.packbits(sums.weight < 0, axis=-1)
    return arrays


def unpack(arrays: Mapping[str, NDArray[Any]]) -> Sums:
    """One question's sums [L, E] from its packed arrays."""
    words = {name: _words(arrays[name]) for name in CODES}
    rest = arrays["count"].astype(np.int64)
    for bit, name in enumerate(CODES):
        rest |= (words[name] >> 23).astype(np.int64) << (8 + bit)
    if "count.high" in arrays:
        rest |= arrays["count.high"].astype(np.int64) << 12
    codes = {name: word & np.uint32((1 << 23) - 1) for name, word in words.items()}
    # An expert that was reached has a spread near 1 or above, whose code is never 0.
    count = np.where(codes[SPREAD] > 0, rest + 1, 0)
    total = {name: _unscaled(codes[name], arrays[f"{name}.exponent"], count) for name in SCALED}
    spread = _values(codes[SPREAD], SPREAD_EXPONENT)
    squared = _squared(total["weighted_norm"], count, spread)
    negative = np.unpackbits(arrays["weight.negative"], axis=-1, count=count.shape[-1]).astype(bool)
    weight = np.where(negative, -total["weight"], total["weight"])
    return Sums(total["weighted_norm"], squared, total["norm"], weight, count)


def stored_norms(sums: Sums) -> Floats:
    """Σ n [..., L, E] as the file holds it: what rankings count, so that a measurement ranks as its file does."""
    return _unscaled(*_scaled(_norms(sums), sums.count), sums.count)


def _norms(sums: Sums) -> Floats:
    """Σ n, not finite where Σ n² is not."""
    return np.where(np.isfinite(sums.weighted_norm_squared), sums.weighted_norm, np.nan)


def _spread(sums: Sums) -> Floats:
    """Ratio of the mean square to the square of the mean as stored (0.5 where both are 0), and 0 where there is no token."""
    norms = stored_norms(sums)
    usable = np.isfinite(norms) & (norms > 0)
    # One factor after the other: the square alone may leave float64's range where the ratio does not.
    ratio = np.divide(sums.weighted_norm_squared, norms, out=np.zeros(norms.shape), where=usable)
    ratio = np.divide(ratio, norms, out=np.zeros(norms.shape), where=usable) * sums.count
    # Against the norm as stored, a ratio of 1 may come out a little smaller, and one of the count a little larger.
    ratio = np.where(np.isfinite(ratio), np.clip(ratio, 0.5, sums.count * (1 + 2.0**-17)), 1)
    return np.where(sums.count > 0, ratio, 0)


def _squared(norms: Floats, count: Counts, spread: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return np.divide(spread, count, out=np.zeros(norms.shape), where=count > 0) * norms * norms


def _scaled(values: Floats, count: Counts) -> tuple[Codes, NDArray[np.int16]]:
    """Codes of sums [..., E], which are 0 or more, and the exponent of each row [...]."""
    damaged = ~np.asarray(np.isfinite(values).all(axis=-1))
    safe = np.where(damaged[..., None] | (count == 0), 0, np.ldexp(values, -np.frexp(count)[1]))
    fraction, power = np.frexp(safe.max(axis=-1, initial=0))
    # A largest value that rounds up to the next power of two takes its exponent, so that reading and writing changes nothing.
    power = power + (np.rint(np.ldexp(fraction, MANTISSA + 1)) == 1 << (MANTISSA + 1))
    exponent = np.where(damaged, DAMAGED, power).astype(np.int16)
    return _codes(safe, np.where(damaged, 0, power)[..., None]), exponent


def _unscaled(codes: Codes, exponent: NDArray[np.int16], count: Counts) -> Floats:
    with np.errstate(over="ignore"):  # an exponent that no sum has makes infinity, which the gates refuse
        return np.where(count > 0, np.ldexp(_values(codes, exponent[..., None]), np.frexp(count)[1]), 0.0)


def _codes(values: Floats, exponent: NDArray[Any] | np.int32) -> Codes:
    """Codes of values below two to the power of `exponent`: as in IEEE 754, the field of the exponent above the mantissa."""
    fraction, power = np.frexp(values)
    field = np.maximum(power - exponent + TOP, 0)
    # Subnormal numbers have the field 0 and the scale of field 1; a mantissa that rounds up carries into the field.
    shift = np.where(field > 0, 0, power - exponent + TOP - 1)
    mantissa = np.rint(np.ldexp(fraction, MANTISSA + 1 + np.maximum(shift, -60))).astype(np.int64)
    codes: Codes = (np.where(field > 0, (field - 1) << MANTISSA, 0) + mantissa).astype(np.uint32)
    return codes


def _values(codes: Codes, exponent: NDArray[Any] | np.int32) -> Floats:
    """Inverse of `_codes`; NaN in a damaged row."""
    field = (codes >> MANTISSA).astype(np.int32)
    mantissa = (codes & ((1 << MANTISSA) - 1)).astype(np.float64) + np.where(field > 0, 1 << MANTISSA, 0)
    scale = np.maximum(field, 1) - TOP + np.int32(exponent) - MANTISSA - 1
    return np.where(exponent == DAMAGED, np.nan, np.ldexp(mantissa, scale))


def _words(packed: NDArray[np.uint8]) -> Codes:
    """[..., E, 3] bytes, the lowest first, as [..., E] numbers."""
    low, middle, high = (packed[..., place].astype(np.uint32) for place in range(3))
    result: Codes = low | middle << np.uint32(8) | high << np.uint32(16)
    return result
