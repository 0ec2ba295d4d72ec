"""Stage records: what a finished stage made, from what, and how long it took."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from pruner.errors import CheckFailedError, InputError
from pruner.exclusive import exclusive
from pruner.files import canonical_json, digest_of, read_json, remove_leftovers, sha256_file, write_atomic
from pruner.places import missing, require_folder_above, require_possible

Made = TypeVar("Made")


@dataclass(frozen=True)
class Output:
    """A file of the work folder: its digest, its size, and its time stamp, which spares reading it again."""

    sha256: str
    size: int
    modified: int


@dataclass(frozen=True)
class Record:
    """Written last of all by a stage that completed."""

    stage: str
    fingerprint: str
    outputs: Mapping[str, Output]
    seconds: float
    peak_memory: int

    @property
    def digest(self) -> str:
        """Digest of the names and contents of all outputs."""
        return digest_of({name: output.sha256 for name, output in self.outputs.items()})

    def digests(self) -> dict[str, str]:
        """SHA-256 of each output by its path in the work folder."""
        return {name: output.sha256 for name, output in self.outputs.items()}


def make_record(
    work: Path, stage: str, fingerprint: str, paths: Sequence[Path], seconds: float, known: Mapping[str, str] | None = None
) -> Record:
    """The record of a stage that just ended; its outputs are digested, but for those whose SHA-256 is `known`."""
    return Record(stage, fingerprint, digested_outputs(work, paths, known), round(seconds, 3), _peak_memory())


def digested_outputs(work: Path, paths: Sequence[Path], known: Mapping[str, str] | None = None) -> dict[str, Output]:
    """Files, or folders with all that is in them, by path in the work folder; digested unless their SHA-256 is `known`."""
    known = known or {}
    files = sorted(file for path in paths for file in _files(path))
    outputs = {}
    for file in files:
        state = file.stat()
        name = file.relative_to(work).as_posix()
        outputs[name] = Output(known.get(name) or sha256_file(file), state.st_size, state.st_mtime_ns)
    return outputs


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (file for file in path.rglob("*") if file.is_file())
    else:
        yield path


def _peak_memory() -> int:
    """Largest resident set in bytes of this process or any finished child."""
    largest = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return largest if sys.platform == "darwin" else largest * 1024


PLACED = frozenset({"expert_statistics.safetensors"})
"""What a person may put into a new work folder: statistics that `moe-release merge` joined."""
MARKER = ".moe-release"
"""Marks a folder as one that a release may write and delete in."""


@contextmanager
def own_work_folder(work: Path, name: str) -> Iterator[None]:
    """Take a work folder for one run of the release `name`.

    Raises:
        InputError: it holds other people's files or another release, or is no folder.
        UnavailableError: another run works in it.
    """
    require_possible(work)
    if not work.is_dir() and os.path.lexists(work):
        why = missing(work) if work.is_symlink() and not work.exists() else "is no folder"
        raise InputError(f"{work}: {why}; choose another with --work")
    require_folder_above(work)
    marker = work / MARKER
    foreign = work.is_dir() and any(path.name not in PLACED for path in work.iterdir())
    if foreign and not marker.is_file():
        raise InputError(f"{work}: holds files that are not of a release; choose an empty or new folder with --work")
    work.mkdir(parents=True, exist_ok=True)
    if (owner := marker.read_text(encoding="utf-8", errors="replace").strip() if marker.is_file() else "") not in ("", name):
        raise InputError(f"{work}: holds the release {owner}; choose another folder with --work")
    if not owner:
        marker.write_text(name, encoding="utf-8")
    with exclusive(work / ".lock", f"{work}: another run works here; wait for its end or choose another folder with --work"):
        remove_leftovers(work)
        yield


def record_path(work: Path, stage: str) -> Path:
    """Where the record of a stage stands."""
    return work / "records" / f"{stage}.json"


def write_record(work: Path, record: Record) -> None:
    """Store a record atomically."""
    write_atomic(record_path(work, record.stage), canonical_json(asdict(record)))


def read_record(work: Path, stage: str) -> Record | None:
    """The record of a stage, or None if it never completed here (or the record is unreadable, which means the same)."""
    try:
        return TypeAdapter(Record).validate_python(read_json(record_path(work, stage), "the record"))
    except (InputError, ValidationError):
        return None


def read_made(path: Path, kind: type[Made]) -> Made:
    """The JSON of a file in the work folder that an earlier stage made, as a value of `kind`.

    Raises:
        CheckFailedError: it is not there any more, or was damaged since.
    """
    try:
        return TypeAdapter(kind).validate_python(read_json(path, "a file of this work folder"))
    except (InputError, ValidationError):
        raise CheckFailedError(f"{path}: is damaged or gone; delete it, and run the same command again") from None


def changed_output(work: Path, record: Record) -> str | None:
    """The first output that is gone or has another digest.  A file with the recorded size and time stamp is not read again."""
    for name, output in record.outputs.items():
        path = work / name
        try:
            state = path.stat()
        except (OSError, ValueError):  # gone, or a name that no file can have
            return name
        if state.st_size != output.size:
            return name
        if state.st_mtime_ns != output.modified and sha256_file(path) != output.sha256:
            return name
    return None
