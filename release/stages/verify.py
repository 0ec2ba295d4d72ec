"""Verify: the weights' digests against the lock and against prior builds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pruner.checkpoint import open_checkpoint
from pruner.drop_map import read_drop_map
from pruner.errors import CheckFailedError, InputError
from pruner.files import canonical_json, git_blob_id, read_json, sha256_file, write_atomic
from pruner.hub_source import hub_source
from pruner.sources import Source, SourceFile, digested
from pruner.tensor_digests import ShardDigests, TensorDigests, digest_shard
from pruner.wording import counted, counted_that, some
from pruner.workers import executor_or_threads
from release.context import Context
from release.evaluation.protocol import protocol_digest
from release.gguf.shards import all_shards
from release.lock import (
    Lock,
    LockedFile,
    LockedInputs,
    contradiction,
    explain_weights,
    locked_weights,
    read_committed_lock,
    tensor_data_of,
)
from release.manifest import Prior
from release.records import read_made
from release.references import Comparison, compare_inputs, compare_locked, listing, read_reference
from release.stages.evaluate import protocol_of
from release.stages.prune import build_result, drop_map_path, skip_base_release
from release.stages.resolve import base_digest, file_digest, locked_base, locked_files
from release.stages.stage import Stage

BASE, BUILD, LOCK, INPUTS = "base", "build", "lock", "inputs of the lock"
NOTHING = "nothing yet: there is no lock and no prior build"
References = Mapping[str, tuple[Comparison, ...]]
"""Every file of the weights against what it must equal, by name of the reference."""


def weights_lock(context: Context) -> Lock:
    """A lock of the inputs and weights of this build."""
    drop_map = read_drop_map(drop_map_path(context))
    inputs = LockedInputs(
        base=locked_base(context),
        drop_map={layer: list(ids) for layer, ids in drop_map.drop.items()},
        protocol=protocol_digest(protocol_of(context)) if context.manifest.eval else None,
        files=locked_files(context),
    )
    outputs = locked_weights(build_result(context).files, tensor_digests(context))
    return Lock(name=context.manifest.name, inputs=inputs, tensor_data=tensor_data_of(outputs), outputs=outputs)


def _tensors_path(context: Context) -> Path:
    return context.work / "tensor_digests.json"


def tensor_digests(context: Context) -> dict[str, TensorDigests]:
    """Digests of the tensors of each shard that was verified here, by the shard's own SHA-256."""
    path = _tensors_path(context)
    if not path.exists():
        return {}
    return dict(read_made(path, dict[str, dict[str, dict[str, Any]]]))


def rehashed(context: Context, lock: Lock) -> Lock:
    """The same lock with each file's digest read from disk again, so that later damage shows.

    The digests of a build's tensors, which its lock holds, are taken in the same pass.
    """
    total = sum(file.size for file in lock.outputs.values())
    built = {file.sha256 for file in lock.outputs.values()}
    known = {digest: tensors for digest, tensors in tensor_digests(context).items() if digest in built}
    present = {path: context.work / path for path in lock.outputs if (context.work / path).is_file()}
    with context.progress.task("digesting the weights", total, "bytes") as advance:

        def read(path: str) -> ShardDigests:
            if path.endswith(".safetensors") and lock.outputs[path].sha256 not in known:
                return digest_shard(present[path], advance)
            return ShardDigests(sha256_file(present[path], advance), known.get(lock.outputs[path].sha256, {}))

        with executor_or_threads(None, context.options.workers) as (pool, _):
            found = dict(zip(present, pool.map(read, present), strict=True))
    shards = {each.sha256: each.tensors for path, each in found.items() if path.endswith(".safetensors")}
    if fresh := {digest: tensors for digest, tensors in shards.items() if digest in built and digest not in known}:
        write_atomic(_tensors_path(context), canonical_json({**known, **fresh}))
    outputs = {path: LockedFile(sha256=each.sha256, size=present[path].stat().st_size) for path, each in found.items()}
    return lock.model_copy(update={"outputs": outputs})


def compare_weights(context: Context, *, everything: bool = False) -> References:
    """The weights on disk, and what they were made from, file by file against what was built, the lock and each prior.

    Of the inputs only those count that the weights are made from, unless `everything` does: who works on a card's template
    has another one than the lock, and builds the same weights.
    """
    built = weights_lock(context)
    found = rehashed(context, built)
    references = {BUILD: compare_locked(built.outputs, found.outputs)}
    lock = read_committed_lock(context.loaded.lock_path)
    if lock is not None and not context.options.update_lock:
        references[LOCK] = compare_locked(_of_weights(lock), found.outputs)
        kept = _comparable if everything else _of_the_weights
        references[INPUTS] = compare_inputs(kept(context, lock, lock.inputs), kept(context, lock, built.inputs))
    for prior in context.manifest.prior:
        references[prior.label] = _against_prior(_prior(context, prior, found), found.outputs, prior.label)
    return references


def compare_base(context: Context, base: Source) -> References:
    """Every file of a base, read now, against the one that the weights were made from.

    Raises:
        InputError, UnavailableError: it is no checkpoint, or cannot be read.
    """
    checkpoint = open_checkpoint(base)
    total = sum(base.files[name].size for name in checkpoint.files if base.files[name].sha256 is None)
    with context.progress.task("digesting the base", total, "bytes") as advance:
        digests = {
            name: base.files[name].sha256 or digested(base, base.files[name], advance).sha256 for name in checkpoint.files
        }
    found = {name: LockedFile(sha256=str(digest), size=base.files[name].size) for name, digest in digests.items()}
    return {BASE: compare_locked(locked_base(context).files, found)}


def _comparable(_context: Context, lock: Lock, inputs: LockedInputs) -> LockedInputs:
    """Inputs without the base's GGUFs that quants were cut or projectors copied from: these are looked at with the quants."""
    origins = {origin for file in lock.outputs.values() if (origin := file.cut_from or file.copied_from) is not None}
    cut_from = {name for origin in origins for name in all_shards(origin)}
    return inputs.model_copy(update={"files": {name: file for name, file in inputs.files.items() if name not in cut_from}})


def _of_the_weights(context: Context, _lock: Lock, inputs: LockedInputs) -> LockedInputs:
    """Base and drop map alone."""
    pinned = context.prune.drop_map.path if context.prune.drop_map else None
    files = {name: file for name, file in inputs.files.items() if name == pinned}
    return inputs.model_copy(update={"files": files, "protocol": None})


def _against_prior(prior: Mapping[str, LockedFile], found: Mapping[str, LockedFile], name: str) -> tuple[Comparison, ...]:
    """Compare what the prior names of a build: it may list other files too, but must list some of the shards.

    Raises:
        InputError: it lists no weights at all, so that equality would say nothing.
    """
    shards = {path for path in prior if path.endswith(".safetensors")}
    if not shards:
        raise InputError(f"{name}: lists no .safetensors file; a prior must hold digests of an earlier build's shards")
    listed = {path: file for path, file in prior.items() if path in found or path in shards}
    return compare_locked(listed, {path: file for path, file in found.items() if path in listed})


def _of_weights(lock: Lock) -> dict[str, LockedFile]:
    return {path: file for path, file in lock.outputs.items() if path.startswith("weights/")}


def _prior(context: Context, prior: Prior, found: Lock) -> dict[str, LockedFile]:
    """Weights of an earlier build."""
    if prior.file is not None:
        reference = read_reference(context.loaded.file(prior.file))
    else:
        from huggingface_hub import get_token

        reference = listing(hub_source(str(prior.repo), str(prior.revision), endpoint=None, token=get_token()))
    return {f"weights/{name}": _locked(file, f"weights/{name}", context.work, found) for name, file in reference.files.items()}


def _locked(file: SourceFile, path: str, work: Path, found: Lock) -> LockedFile:
    """A file of a reference; of a small one, which a Hub lists with git's SHA-1, the SHA-256 is ours if the content is."""
    if file.sha256 is not None:
        return LockedFile(sha256=file.sha256, size=file.size)
    here = found.outputs.get(path)
    same = here is not None and here.size == file.size and git_blob_id((work / path).read_bytes()) == file.blob_id
    return LockedFile(sha256=here.sha256 if here and same else f"git:{file.blob_id}", size=file.size)


def _run(context: Context) -> str:
    result = compare_weights(context)
    require_equal(context, result)
    write_atomic(_verified_path(context), canonical_json(_equal_files(context, result)))
    shards = sum(path.endswith(".safetensors") for path in weights_lock(context).outputs)
    against = [name for name in result if name not in (BUILD, INPUTS)]
    nothing = "nothing: --update-lock replaces the lock" if context.options.update_lock else NOTHING
    return f"{counted(shards, 'shard')} equal to {', '.join(against)}" if against else f"compared with {nothing}"


def _verified_path(context: Context) -> Path:
    return context.work / "verified.json"


def _equal_files(context: Context, result: References) -> dict[str, list[int]]:
    """By prior build, how many shards are equal to it, and how many this build has."""
    shards = {path for path in weights_lock(context).outputs if path.endswith(".safetensors")}
    priors = {prior.label for prior in context.manifest.prior}
    equal = {
        label: {each.name for each in found if each.status == "equal"} for label, found in result.items() if label in priors
    }
    return {label: [len(shards & names), len(shards)] for label, names in equal.items()}


def read_verified(context: Context) -> dict[str, tuple[int, int]]:
    """Shards that equal each prior build, and how many there are; empty without priors or before they were compared."""
    if not context.manifest.prior or not _verified_path(context).exists():
        return {}
    found = read_json(_verified_path(context), "what was verified")
    return {str(label): (int(equal), int(files)) for label, (equal, files) in found.items()}


def require_equal(context: Context, result: References) -> None:
    """Raise CheckFailedError for a lock that contradicts itself or the build, or for every reference that differs; say why."""
    lock = read_committed_lock(context.loaded.lock_path) if LOCK in result else None
    if lock and (damage := contradiction(lock, weights_lock(context))) is not None:
        raise CheckFailedError(
            f"{context.loaded.lock_path}: was damaged or edited: {damage}; restore it, or use `cut --update-lock`"
        )
    wrong = {name: [each for each in found if each.status != "equal"] for name, found in result.items()}
    if spoiled := wrong.pop(BUILD):
        raise CheckFailedError(f"{_shown(spoiled)}: the file changed after it was written; run `moe-release prune` again")
    said = []
    if other := wrong.pop(BASE, None):
        said.append(f"{_differing(other)} from the base that the weights were made from: {_shown(other)}; fetch the base again")
    if lock and wrong[LOCK]:
        why = explain_weights(lock, weights_lock(context))
        said.append(f"{_differing(wrong[LOCK])} from lock: {_shown(wrong[LOCK])}: {why}; accept with `cut --update-lock`")
    elif lock and wrong[INPUTS]:
        said.append(
            f"{context.loaded.lock_path}: was made from other inputs: {_shown(wrong[INPUTS])}; restore it if it was damaged or "
            "edited, or accept them with `cut --update-lock`"
        )
    said += [
        f"{_differing(each)} from {name}: {_shown(each)}: it may come from another base, map or layout"
        for name, each in wrong.items()
        if each and name not in (LOCK, INPUTS)
    ]
    if said:
        raise CheckFailedError("; ".join(said))


def _shown(rows: Sequence[Comparison]) -> str:
    return some([f"{each.name} ({each.status})" for each in rows])


def _differing(rows: Sequence[Comparison]) -> str:
    return counted_that(len(rows), "file", "differ")


def _inputs(context: Context) -> Any:
    lock = context.loaded.lock_path
    locked = sha256_file(lock) if lock.exists() and not context.options.update_lock else None
    priors = [sha256_file(context.loaded.file(each.file)) if each.file else each.label for each in context.manifest.prior]
    made_from = [base_digest(context), file_digest(context, context.prune.drop_map)]  # other words in a map, the same weights
    return [context.made_by("prune"), locked, priors, "tensor digests", made_from]


STAGE = Stage(
    name="verify",
    title="verifying digests",
    run=_run,
    inputs=_inputs,
    outputs=lambda context: (_tensors_path(context), _verified_path(context)),
    skip=skip_base_release,
    needs=("prune",),
)
