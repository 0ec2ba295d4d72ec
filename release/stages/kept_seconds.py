"""The seconds of a release that stands on the Hub already: another build of the same bytes took others, and changes nothing.

Otherwise each repetition of a release, from a new work folder or a new machine, would be a new commit beside its tag.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pruner.errors import CheckFailedError, InputError
from pruner.files import atomic_folder, path_inside, remove, sha256_file, write_atomic
from release.context import Context
from release.evaluation.evidence import Evidence
from release.evaluation.timing import LARGEST_TIMING, longest_wait, misfits, read_timing, timing_bytes
from release.lock import LARGEST_LOCK, read_lock, timing_key
from release.reproduce import LOCK, timing_name
from release.stages.evaluate import evidence_of, protocol_of
from release.stages.lock import work_lock_path
from release.stages.publication import Repository

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from release.hub.remote import RemoteTree


def keep_seconds(context: Context, repository: Repository, api: HfApi, trees: Iterable[RemoteTree]) -> Repository:
    """The repository's files, with the lock and seconds of the first tree whose lock differs in nothing but their digests."""
    folder = _folder(context, repository.repo)
    remove(folder)
    timed = _timed(context, repository)
    names = {LOCK: LARGEST_LOCK, **dict.fromkeys(timed.values(), LARGEST_TIMING)} if timed else {}
    for tree in trees if names else ():
        if not names.keys() <= tree.files.keys():
            continue
        with suppress(_OtherReleaseError), atomic_folder(folder) as fresh:
            for name, largest in names.items():
                write_atomic(path_inside(fresh, name), _remote(api, repository.repo, tree, name, largest))
            if not _ours(context, fresh, timed):
                raise _OtherReleaseError
        if folder.is_dir():
            break
    return with_kept_seconds(context, repository)


def with_kept_seconds(context: Context, repository: Repository) -> Repository:
    """The repository with the lock and the seconds that the publish stage kept, if it did, and if they are of this release."""
    folder, timed = _folder(context, repository.repo), _timed(context, repository)
    if not timed or not folder.is_dir() or not _ours(context, folder, timed):
        return repository
    kept = {name: folder / name for name in (LOCK, *timed.values())}
    digests = {name: sha256_file(file) for name, file in kept.items()}
    return replace(repository, files={**repository.files, **kept}, digests={**repository.digests, **digests})


class _OtherReleaseError(Exception):
    """What stands on the Hub is of another release, or cannot be read: it is replaced like any other file."""


def _folder(context: Context, repo: str) -> Path:
    return path_inside(context.work, f"kept/{repo.replace('/', '--')}/seconds")


def _timed(context: Context, repository: Repository) -> dict[str, str]:
    """Where the seconds of each quant stand in this repository; the one of the quants has none, and no lock."""
    section = context.manifest.eval
    return {quant: timing_name(quant) for quant in section.quants} if section and LOCK in repository.files else {}


def _remote(api: HfApi, repo: str, tree: RemoteTree, name: str, largest: int) -> bytes:
    from release.hub.small_files import remote_bytes

    try:
        return remote_bytes(api, repo, tree, name, largest) or b""
    except (InputError, CheckFailedError) as error:  # too large
        raise _OtherReleaseError from error


def _ours(context: Context, folder: Path, timed: Mapping[str, str]) -> bool:
    """Whether a lock and seconds are those of this release: byte for byte what we would publish had it taken so long.

    So nothing is kept that would not verify, and nothing that somebody else could choose but the seconds.
    """
    lock = read_lock(work_lock_path(context))
    if lock is None or not all((folder / name).is_file() for name in (LOCK, *timed.values())):
        return False
    runs, longest = evidence_of(context), longest_wait(protocol_of(context))
    outputs = dict(lock.outputs)
    for quant, name in timed.items():
        file, key = folder / name, timing_key(quant)
        if key not in outputs or not _fits(file, runs[quant], longest):
            return False
        outputs[key] = outputs[key].model_copy(update={"sha256": sha256_file(file), "size": file.stat().st_size})
    return (folder / LOCK).read_bytes() == lock.model_copy(update={"outputs": outputs}).to_bytes()


def _fits(file: Path, evidence: Evidence, longest: float) -> bool:
    """Whether seconds are in their only form, and of our evidence."""
    try:
        timing = read_timing(file)
    except InputError:
        return False
    return timing_bytes(timing) == file.read_bytes() and not any(misfits(timing, evidence, longest))
