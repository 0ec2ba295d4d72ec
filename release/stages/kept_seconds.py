"""The seconds of a release that stands on the Hub already: another build of the same bytes took others, and changes nothing.

Otherwise each repetition of a release, from a new work folder or a new machine, would be a new commit beside its tag.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pruner.errors import CheckFailedError, InputError
from pruner.files import path_inside, sha256_file, write_atomic
from release.context import Context
from release.evaluation.timing import LARGEST_TIMING, longest_wait, misfits, read_timing
from release.lock import Lock, equal_but_for_seconds, read_lock
from release.reproduce import LOCK, timing_name
from release.stages.evaluate import evidence_of, protocol_of
from release.stages.lock import work_lock_path
from release.stages.publication import Repository

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from release.hub.remote import RemoteTree

LARGEST_LOCK = 64 << 20


def keep_seconds(context: Context, repository: Repository, api: HfApi, tree: RemoteTree | None) -> Repository:
    """The repository's files, with the lock and the seconds of the Hub where its lock differs in nothing but their digests."""
    folder = _folder(context, repository.repo)
    shutil.rmtree(folder, ignore_errors=True)
    timed = _timed(context, repository)
    if tree is None or not timed or not {LOCK, *timed.values()} <= tree.files.keys():
        return repository
    try:
        for name, largest in {LOCK: LARGEST_LOCK, **dict.fromkeys(timed.values(), LARGEST_TIMING)}.items():
            _fetch(api, repository.repo, tree, name, largest, path_inside(folder, name))
        ours = _ours(context, folder, timed)
    except (InputError, CheckFailedError):  # what cannot be read is replaced like any other file
        ours = False
    if not ours:
        shutil.rmtree(folder, ignore_errors=True)
    return with_kept_seconds(context, repository)


def with_kept_seconds(context: Context, repository: Repository) -> Repository:
    """The repository with the lock and the seconds that the publish stage kept, if it did, and if they are of this release."""
    folder, timed = _folder(context, repository.repo), _timed(context, repository)
    if not timed or not (folder / LOCK).exists() or not _same_release(context, folder):
        return repository
    kept = {name: folder / name for name in (LOCK, *timed.values())}
    digests = {name: sha256_file(file) for name, file in kept.items()}
    return replace(repository, files={**repository.files, **kept}, digests={**repository.digests, **digests})


def _folder(context: Context, repo: str) -> Path:
    return context.work / "kept" / repo.replace("/", "--") / "seconds"


def _timed(context: Context, repository: Repository) -> dict[str, str]:
    """Where the seconds of each quant stand in this repository; the one of the quants has none, and no lock."""
    section = context.manifest.eval
    return {quant: timing_name(quant) for quant in section.quants} if section and LOCK in repository.files else {}


def _fetch(api: HfApi, repo: str, tree: RemoteTree, name: str, largest: int, target: Path) -> None:
    from release.hub.small_files import remote_text

    write_atomic(target, (remote_text(api, repo, tree, name, largest) or "").encode())


def _same_release(context: Context, folder: Path) -> bool:
    ours, theirs = read_lock(work_lock_path(context)), read_lock(folder / LOCK)
    return ours is not None and theirs is not None and equal_but_for_seconds(ours, theirs)


def _ours(context: Context, folder: Path, timed: dict[str, str]) -> bool:
    """Nothing is kept that does not verify: the lock in its only form, the seconds as it has them, and of our evidence."""
    theirs = read_lock(folder / LOCK)
    if theirs is None or theirs.to_bytes() != (folder / LOCK).read_bytes() or not _same_release(context, folder):
        return False
    longest, runs = longest_wait(protocol_of(context)), evidence_of(context)
    files = {quant: folder / name for quant, name in timed.items()}
    return all(
        sha256_file(file) == _locked(theirs, quant) and not any(misfits(read_timing(file), runs[quant], longest))
        for quant, file in files.items()
    )


def _locked(lock: Lock, quant: str) -> str | None:
    entry = lock.outputs.get(f"eval/{quant}/timing.json")
    return entry.sha256 if entry else None
