"""The element types of ggml: numbers, names and block layouts, as `ggml/src/ggml.c` of llama.cpp defines them.

The table stands here because the `gguf` package on PyPI follows llama.cpp with months of delay: its release 0.19 lacks Q2_0,
and a GGUF with an unknown type cannot even be listed.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass


@dataclass(frozen=True)
class GgmlType:
    """One element type: `block_size` consecutive elements of a row take `block_bytes` bytes."""

    number: int
    name: str
    block_size: int
    block_bytes: int

    @property
    def quantized(self) -> bool:
        """Whether elements share a block, so that a row must be a multiple of `block_size`."""
        return self.block_size > 1

    def size_of(self, elements: int) -> int:
        """Bytes of `elements` elements; the caller has checked that rows are whole blocks."""
        return elements // self.block_size * self.block_bytes


_TABLE = (
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
    (41, "Q1_0", 128, 18),
    (42, "Q2_0", 64, 18),
)

BY_NUMBER = {row[0]: GgmlType(*row) for row in _TABLE}
BY_NAME = {each.name: each for each in BY_NUMBER.values()}

FILE_TYPES = (
    *("Q1_0", "Q2_0", "Q4_0", "Q4_1", "MXFP4_MOE", "Q5_0", "Q5_1", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ1_S", "IQ1_M"),
    *("TQ1_0", "TQ2_0", "Q2_K", "Q2_K_S", "IQ3_XXS", "IQ3_S", "IQ3_M", "Q3_K", "IQ3_XS", "Q3_K_S", "Q3_K_M", "Q3_K_L"),
    *("IQ4_NL", "IQ4_XS", "Q4_K", "Q4_K_S", "Q4_K_M", "Q5_K", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0", "F16", "BF16", "F32", "COPY"),
)
"""What llama-quantize makes (QUANT_OPTIONS of tools/quantize/quantize.cpp): mixes of element types, not the table above."""


NEED_IMATRIX = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "Q2_K_S"})
"""File types that llama-quantize does not make without an imatrix (`tensor_requires_imatrix` of src/llama-quant.cpp)."""


def nearest(word: str, known: list[str]) -> str:
    """A hint for a name that is not known: `; did you mean 'A' or 'B'?`, or nothing when none is close."""
    near = difflib.get_close_matches(word.upper(), known, n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
