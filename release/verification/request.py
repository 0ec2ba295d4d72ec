"""What a verification is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Request:
    """What to verify, and with what."""

    repo: str
    revision: str = "main"
    """Of the weights; quants are read at the same branch or tag."""
    base: str | None = None
    workers: int | None = None
    endpoint: str | None = None
    token: str | None = None
    signer: Path | None = None
    """The publisher's public key, from a place that one trusts."""
    requantize: bool = False
    """Make the quants again, which needs the base on this disk and llama.cpp."""
    llama_cpp: Path | None = None
    work: Path | None = None
    """Folder for what needs a disk, and in which a killed exam goes on; default: the system's temporary one."""
    exam: bool = False
    exam_data: Path | None = None
    """The exam's questions, when they are not published."""
    cache: Path | None = None
    """Folder that remembers digests of proved shards, so that a killed run goes on."""
