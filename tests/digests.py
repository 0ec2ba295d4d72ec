"""What tests compare when bytes are promised."""

from __future__ import annotations

from pathlib import Path

from pruner.files import sha256_file


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file at the top of a folder, by name, hidden ones too."""
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
