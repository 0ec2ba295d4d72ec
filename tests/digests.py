"""What tests compare when bytes are promised."""

from __future__ import annotations

import json
from pathlib import Path

from pruner.files import sha256_file


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a folder by its path there, hidden ones too."""
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def spoil_lock(lock: Path, output: str) -> None:
    """Let a lock say another digest of an output, as somebody would who means it: without the digest of itself."""
    content = json.loads(lock.read_bytes())
    content["outputs"][output]["sha256"] = "0" * 64
    del content["digest"]
    lock.write_text(json.dumps(content))
