"""Which files of a GGUF repository are a quant."""

from __future__ import annotations

import pytest

from pruner.errors import CheckFailedError
from release.lock import Lock, LockedBase, LockedFile, LockedInputs
from release.verification.ggufs import locked_files_of


def locked(*paths: str) -> Lock:
    files = {path: LockedFile(sha256="0" * 64, size=1) for path in paths}
    return Lock(name="m", inputs=LockedInputs(base=LockedBase(name="b", files={})), outputs=files)


def test_all_shards_of_a_quant_are_its_files() -> None:
    shards = [f"m-Q6_K-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    lock = locked(*[f"gguf/{name}" for name in reversed(shards)], "gguf/m-Q6_K_L.gguf", "gguf/m-Q8_0.gguf", "imatrix/m.gguf")
    assert locked_files_of(lock, "m", "Q6_K") == shards
    assert locked_files_of(lock, "m", "Q8_0") == ["m-Q8_0.gguf"]
    with pytest.raises(CheckFailedError, match="the lock lists no file of Q2_K"):
        locked_files_of(lock, "m", "Q2_K")
