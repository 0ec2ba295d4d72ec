"""What tests compare when bytes are promised."""

from __future__ import annotations

from pathlib import Path

from pruner.files import sha256_file


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a folder by its path there, hidden ones too."""
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}
