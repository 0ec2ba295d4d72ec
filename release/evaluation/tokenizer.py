"""The tokenizer inside a GGUF: its digest, and the comparison with the one that a protocol pins."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pruner.errors import CheckFailedError
from release.evaluation.protocol import Protocol

PREFIX = "tokenizer.ggml."


def tokenizer_digest(model: Path) -> str:
    """SHA-256 over the bytes of all pairs `tokenizer.ggml.*` of a GGUF's header (key, type and value) in the keys' order, hex.

    The chat template is no part of it: a protocol pins that by itself.

    Raises:
        InputError: the file is no GGUF.
    """
    from release.gguf.reader import read_header

    header = read_header(model)
    digest = hashlib.sha256()
    with model.open("rb") as file:
        for key in sorted(key for key in header.entries if key.startswith(PREFIX)):
            entry = header.entries[key]
            file.seek(entry.start)
            digest.update(file.read(entry.end - entry.start))
    return digest.hexdigest()


def require_tokenizer(protocol: Protocol, model: Path) -> str:
    """The digest of the model's tokenizer.

    Raises:
        CheckFailedError: the protocol pins another.
        InputError: the file is no GGUF.
    """
    found, pinned = tokenizer_digest(model), protocol.chat.tokenizer_sha256
    if pinned not in (None, found):
        raise CheckFailedError(
            f"{model.name}: the tokenizer's sha256 is {found}, protocol {protocol.name} wants {pinned} (chat.tokenizer_sha256)"
        )
    return found
