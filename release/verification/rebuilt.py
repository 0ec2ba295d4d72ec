"""Weights and unquantized GGUF of a published release, made again on this disk; a run that was killed goes on from there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pruner.exclusive import exclusive
from pruner.files import digest_of, sha256_file
from pruner.materialize import materialize
from pruner.progress import Progress
from release.context import Context
from release.hub.published import Published, base_of
from release.lock import Lock
from release.records import changed_output, make_record, read_record, write_record
from release.stages.convert import STAGE as CONVERT
from release.stages.convert import source_gguf
from release.verification.request import Request


@contextmanager
def rebuilding(published: Published, request: Request) -> Iterator[Path]:
    """A folder to work in: below that of the user's, where it stays until the work is done, or a temporary one.

    Raises:
        UnavailableError: another run works in it.
    """
    if request.work is None:
        with tempfile.TemporaryDirectory(prefix="moe-release-requantize-") as temporary:
            yield Path(temporary)
        return
    folder = request.work / f"requantize-{published.weights.source.commit}"
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / ".lock", f"{folder}: another run works here; wait for its end or choose another --work"):
        yield folder
        shutil.rmtree(folder)


def rebuild_weights(published: Published, request: Request, target: Path, progress: Progress) -> None:
    """Make the weights from the base, unless an earlier run did and they are as locked.

    Raises:
        InputError, CheckFailedError, UnavailableError: see `materialize`.
    """
    if target.is_dir() and not _as_locked(published.lock, target):
        shutil.rmtree(target)
    if not target.is_dir():
        base = base_of(published, request.base)
        materialize(published.weights.source, base, target, workers=request.workers, progress=progress)


def _as_locked(lock: Lock, folder: Path) -> bool:
    files = lock.weights()
    return all((folder / name).is_file() and sha256_file(folder / name) == file.sha256 for name, file in files.items())


def convert_once(context: Context) -> None:
    """Convert the weights, unless an earlier run did with the same code and the GGUF is whole.

    Raises:
        InputError, CheckFailedError, UnavailableError: see `release.gguf.convert.convert`.
    """
    code = context.toolchain.converter_code
    fingerprint = digest_of([context.toolchain.commit, code, context.manifest.name, context.gguf.outtype])
    record = read_record(context.work, CONVERT.name)
    if record and code and record.fingerprint == fingerprint and changed_output(context.work, record) is None:
        return
    CONVERT.run(context)
    write_record(context.work, make_record(context.work, CONVERT.name, fingerprint, [source_gguf(context)], 0.0))
