"""Key-value pairs as they stand in the header of a GGUF, little-endian (`docs/gguf.md` of ggml)."""

from __future__ import annotations

import struct

from pruner.errors import InputError
from release.gguf.reader import KIND_NUMBERS, SCALAR_CODES


def packed_text(text: str) -> bytes:
    """A string: its length in bytes as u64, then its UTF-8."""
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def packed_entry(key: str, kind: str, value: str | float) -> bytes:
    """One key-value pair; `kind` is "str" or a kind of number, such as "u32".

    Raises:
        InputError: the kind cannot hold the value.
    """
    start = packed_text(key) + struct.pack("<I", KIND_NUMBERS[kind])
    if isinstance(value, str):
        return start + packed_text(value)
    try:
        return start + struct.pack(f"<{SCALAR_CODES[kind]}", value)
    except (struct.error, KeyError):
        raise InputError(f"GGUF: {key} is of kind {kind}, which cannot hold {value}") from None
