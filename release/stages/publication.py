"""What a release publishes: which file of the work folder goes where, and the digest that it must have there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pruner.errors import CheckFailedError
from pruner.files import sha256_file
from release import reproduce
from release.context import Context
from release.lock import read_lock
from release.stages.lock import gguf_sums_path, page_path, provenance_path, sums_path, work_lock_path


@dataclass(frozen=True)
class Repository:
    """One repository: local files and their SHA-256 by path in the repository."""

    repo: str
    files: dict[str, Path]
    digests: dict[str, str]


def repositories(context: Context) -> list[Repository]:
    """Weights first, then GGUFs: a GGUF's card links to the weights."""
    publish = context.publish
    result = [_repository(context, publish.weights, _weights_files(context))]
    if publish.gguf:
        result.append(_repository(context, publish.gguf, _gguf_files(context)))
    return result


def _repository(context: Context, repo: str, files: dict[str, Path]) -> Repository:
    """Digests come from the lock; only the files that a lock cannot hold (itself, inputs) are digested here."""
    lock = read_lock(work_lock_path(context))
    locked = lock.outputs if lock else {}
    digests = {}
    for name, path in files.items():
        inside = path.relative_to(context.work).as_posix() if path.is_relative_to(context.work) else ""
        digests[name] = locked[inside].sha256 if inside in locked else sha256_file(path)
    return Repository(repo, files, digests)


def _locked_files(context: Context, kind: reproduce.Kind) -> dict[str, Path]:
    """Files of the work folder by their path in a repository, exactly those that the lock lists.

    Raises:
        CheckFailedError: a folder holds another file; nothing unverified is published.
    """
    lock = read_lock(work_lock_path(context))
    outputs = sorted(lock.outputs) if lock else []
    folders = [folder for folder, _, kinds in reproduce.FOLDERS if kind in kinds and _wanted(context, folder)]
    files = [file for folder in folders for file in (context.work / folder).rglob("*") if not file.is_dir()]
    found = {file.relative_to(context.work).as_posix() for file in files}
    if foreign := sorted(found - set(outputs)):
        raise CheckFailedError(
            f"{context.work / foreign[0]}: is not of this release; remove it, nothing unverified is published"
        )
    return {place: context.work / output for output, place in reproduce.places_in(kind, outputs).items()}


def _wanted(context: Context, folder: str) -> bool:
    """Whether this release makes what belongs into a folder; what an earlier one left there is no harm."""
    return folder != "imatrix/" or bool(context.gguf.imatrix)


def _weights_files(context: Context) -> dict[str, Path]:
    locked = _locked_files(context, "weights")
    return {**locked, **_reproduce_files(context, locked)}


def _gguf_files(context: Context) -> dict[str, Path]:
    return {**_locked_files(context, "gguf"), reproduce.SUMS: gguf_sums_path(context)}


def _reproduce_files(context: Context, locked: Mapping[str, Path]) -> dict[str, Path]:
    """What a stranger needs to repeat the release: outputs of the lock among it, and what a lock cannot hold."""
    made = {
        **{place: path for place, path in locked.items() if place.startswith(f"{reproduce.FOLDER}/")},
        reproduce.README: page_path(context),
        reproduce.LOCK: work_lock_path(context),
        reproduce.SUMS: sums_path(context),
        reproduce.PROVENANCE: provenance_path(context),
    }
    if context.publish.rebuilders:
        made[reproduce.REBUILDERS] = context.loaded.file(context.publish.rebuilders)
    if context.manifest.eval:
        made[reproduce.PROTOCOL] = context.loaded.root / context.eval.protocol
    return reproduce.reproduce_files(context.loaded, made)
