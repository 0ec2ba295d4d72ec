"""Resolve inputs: the base at its commit, and the digest of every file that the release is made from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from pruner.checkpoint import Checkpoint, open_checkpoint
from pruner.digest_cache import FileDigestCache
from pruner.errors import CheckFailedError, InputError
from pruner.files import canonical_json, digest_of, path_inside, sha256_file, write_atomic
from pruner.progress import Advance
from pruner.sources import LocalSource, Source, SourceFile, digested
from pruner.wording import counted
from release.base import require_listed
from release.card.render import own_templates
from release.context import Context
from release.documents import Document
from release.gguf.toolchain import cache_folder
from release.lock import LockedBase, LockedFile, read_committed_lock
from release.manifest import DataSource, PinnedFile
from release.possible_experts import require_possible
from release.records import read_made
from release.references import compare_locked
from release.stages.stage import Stage


class _Resolved(Document):
    """What the stage leaves for the others: digests of the base's files, and of those that the manifest names."""

    base: dict[str, LockedFile]
    files: dict[str, LockedFile]
    remembered: list[str] = Field(default_factory=list)
    """Files of the base whose digest another run computed here; they are compared when they are read."""


def dataset_path(context: Context, source: DataSource) -> Path:
    """A table of questions: beside the manifest, or downloaded from the Hub; its digest checked.

    Raises:
        InputError: it does not exist, or has another digest than the manifest pins.
        UnavailableError: the Hub does not give it; the message says what to accept where.
    """
    if source.path is not None:
        return context.loaded.file(PinnedFile(path=source.path, sha256=source.sha256))
    from release.hub.datasets import dataset_file
    from release.hub.endpoint import input_hub

    path = dataset_file(input_hub(), str(source.repo), str(source.revision), str(source.file))
    if source.sha256 and (found := sha256_file(path)) != source.sha256:
        raise InputError(f"{source.name} has SHA-256 {found}, the manifest pins {source.sha256}")
    return path


def _inputs(context: Context) -> Any:
    source = context.base_source
    states = {name: source.state(name) for name in source.files}
    named = {name: sha256_file(path) for name, path in _named_files(context).items()}
    return [context.manifest.base.model_dump(), states, named, *_contradicted(context)]


def _contradicted(context: Context) -> list[str]:
    """The digest of the lock's base if it is another than was resolved here: then it is looked at again, and named.

    A lock that says the same, or that is new, changes nothing: the base is not read again for it.
    """
    lock = None if context.options.update_lock else read_committed_lock(context.loaded.lock_path)
    if lock is None or not _path(context).exists():
        return []
    try:
        known = read_made(_path(context), _Resolved).base
    except CheckFailedError:  # damaged: the stage runs again for that
        return []
    return [] if _digests(lock.inputs.base.files) == _digests(known) else [digest_of(_digests(lock.inputs.base.files))]


def _digests(files: Mapping[str, LockedFile]) -> dict[str, str]:
    return {name: file.sha256 for name, file in files.items()}


def _run(context: Context) -> str:
    base = open_checkpoint(context.base_source)
    require_possible(context.loaded, base.architecture, base.layers)  # found before the analysis, which may take days
    files, remembered = _digested(context, base)
    if not _is_locked(context, files) and context.manifest.base.repo is not None and context.loaded.base_copy is not None:
        require_listed(context.loaded, base, _digests(files))
    named = _named_files(context).items()
    pinned = {name: LockedFile(sha256=sha256_file(path), size=path.stat().st_size) for name, path in named}
    resolved = _Resolved(base=files, files=pinned, remembered=remembered)
    write_atomic(_path(context), canonical_json(resolved.model_dump(exclude_none=True)))
    size = sum(file.size for file in files.values())
    layers = f"{counted(len(base.layers), 'layer')} of {counted(base.architecture.experts, 'expert')}"
    return f"{context.manifest.base.label}: {layers}, {size:,} bytes"


def _digested(context: Context, base: Checkpoint) -> tuple[dict[str, LockedFile], list[str]]:
    """Digests of the base's files, and the names of those that are only remembered.

    They are computed, or as a Hub lists them of what is read by ranges later and never as a whole.
    """
    files, remembered = {}, []
    total = sum(base.source.files[name].size for name in base.files if base.source.files[name].sha256 is None)
    with context.progress.task("digesting the base", total, "bytes") as advance:
        for name in base.files:
            file = base.source.files[name]
            sha256, known = (file.sha256, False) if file.sha256 else _digest(base.source, file, advance)
            remembered += [name] if known else []
            files[name] = LockedFile(sha256=sha256, size=file.size, listed=True if file.sha256 else None)
    return files, remembered


def _digest(source: Source, file: SourceFile, advance: Advance) -> tuple[str, bool]:
    def compute() -> str:
        return str(digested(source, file, advance).sha256)

    return _cache().digest(source.path(file.name), compute) if isinstance(source, LocalSource) else (compute(), False)


def _cache() -> FileDigestCache:
    return FileDigestCache(cache_folder() / "base-digests")


def remembered_digests(context: Context) -> dict[str, str]:
    """Digests of base files that nobody compared with the bytes in this work folder yet."""
    resolved = read_made(_path(context), _Resolved)
    return {name: resolved.base[name].sha256 for name in resolved.remembered}


def forget_digests(context: Context) -> None:
    """Have the base digested again, now and by others: its bytes are not those that are remembered."""
    if isinstance(context.base_source, LocalSource):
        for name in remembered_digests(context):
            _cache().forget(context.base_source.path(name))
    _path(context).unlink(missing_ok=True)


def _is_locked(context: Context, files: dict[str, LockedFile]) -> bool:
    """Whether a lock holds the base's digests; a base that changed under it is found before hours are spent on it."""
    lock = read_committed_lock(context.loaded.lock_path)
    if lock is None or context.options.update_lock:
        return False
    for each in compare_locked(lock.inputs.base.files, files):
        if each.status != "equal":
            other = f"has SHA-256 {each.found}, the lock pins {each.expected}"
            what = {"missing": "is missing", "new": "is not in the lock; remove it"}.get(each.status, other)
            remedy = "use the pinned base, restore a damaged lock, or accept the new one with --update-lock"
            raise CheckFailedError(f"base file {each.name} {what}; {remedy}")
    return True


def _named_files(context: Context) -> dict[str, Path]:
    """Every file that the manifest names, by its name there, digests checked."""
    manifest = context.manifest
    named: list[PinnedFile] = []
    if manifest.prune:
        named += [manifest.prune.drop_map] if manifest.prune.drop_map else []
    if manifest.gguf:
        matrix = manifest.gguf.imatrix
        named += [file for file in (matrix.text, matrix.file) if file] if matrix else []
        named += [quant.tensor_types for quant in manifest.gguf.quants if quant.tensor_types]
        named += [manifest.gguf.quality.text] if manifest.gguf.quality else []
    named += [file for row in manifest.compare for file in row.files]
    named += manifest.card.earlier_maps.values()
    named += [prior.file for prior in manifest.prior if prior.file]
    named += [PinnedFile(path=manifest.card.prose)] if manifest.card.prose else []
    files = {pinned.path: context.loaded.file(pinned) for pinned in named}
    if (folder := manifest.card.templates) is not None:
        names = own_templates(context.loaded.root, folder)
        files |= {f"{folder}/{name}": path_inside(context.loaded.root, f"{folder}/{name}") for name in names}
    dataset = manifest.prune.dataset if manifest.prune else None
    return {**files, dataset.name: dataset_path(context, dataset)} if dataset else files


def _path(context: Context) -> Path:
    return context.work / "inputs.json"


def locked_base(context: Context) -> LockedBase:
    """The base's digests as the lock holds them.

    Raises:
        CheckFailedError: the stage has not run.
    """
    context.record("resolve")
    base = context.manifest.base
    files = read_made(_path(context), _Resolved).base
    return LockedBase(name=base.label, revision=base.revision, files=files)


def base_digest(context: Context) -> str:
    """One digest of all files of the base, for fingerprints."""
    return digest_of(_digests(locked_base(context).files))


def locked_files(context: Context) -> dict[str, LockedFile]:
    """Digests of the files that the manifest names."""
    return read_made(_path(context), _Resolved).files


def file_digest(context: Context, pinned: PinnedFile | None) -> str | None:
    """Digest of one of these files, for fingerprints."""
    return locked_files(context)[pinned.path].sha256 if pinned else None


STAGE = Stage(
    name="resolve",
    title="resolving inputs",
    run=_run,
    inputs=_inputs,
    outputs=lambda context: (_path(context),),
)
