"""`moe-release verify --requantize`: make or cut every quant again, from the locked imatrix, and compare it with the lock."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pruner.drop_map import read_drop_map
from pruner.errors import CheckFailedError, InputError
from pruner.files import sha256_file
from pruner.places import require_file
from release.context import Context
from release.gguf.cut import cut_targets
from release.gguf.cut_plan import plan_cut
from release.gguf.cut_proof import planned_digests
from release.gguf.split_plan import split_plan
from release.lock import Lock, read_committed_lock, read_lock
from release.manifest import BaseQuant, Quant
from release.stages.calibrate import imatrix_of
from release.stages.cut_quant import base_quant
from release.stages.lock import work_lock_path
from release.stages.prune import drop_map_path
from release.stages.quantize import make_quant

Verdict = Literal["GOOD", "BAD", "NOT BIT-EXACT"]


@dataclass(frozen=True)
class Requantized:
    """One file of a quant: `NOT BIT-EXACT` when it differs and a toolchain that is not exact, or another one, explains it."""

    quant: str
    file: str
    verdict: Verdict
    detail: str


def requantize(context: Context, imatrix: Path | None = None) -> list[Requantized]:
    """Make every quant of the manifest again and compare file by file: with the lock, and with what is in the work folder.

    What llama-quantize makes lies in a folder of its own that is deleted; of a cut only the digest is computed.  Drop map and
    unquantized GGUF must be there: the pipeline has run to `convert`.

    Args:
        context: of the manifest.
        imatrix: the locked importance matrix when it is not in the work folder, such as the published one.

    Raises:
        InputError: there is no lock, or the imatrix or a base's GGUF is missing.
        CheckFailedError: the imatrix is not the locked one, or a base's GGUF not the pinned one.
        UnavailableError: a base's GGUF on the Hub is not to be had.
    """
    lock = _lock_of(context)
    made = requantize_made(context, imatrix)
    cut = [found for name, source in context.gguf.cut.items() for found in _cut_again(context, lock, name, source)]
    order = [quant.name for quant in context.gguf.quants]
    return sorted([*made, *cut], key=lambda each: order.index(each.quant))


def requantize_made(context: Context, imatrix: Path | None = None) -> list[Requantized]:
    """The same for those quants alone that llama-quantize makes; raises the same."""
    lock = _lock_of(context)
    matrix = _locked_imatrix(context, lock, imatrix)
    folder = context.work / "requantized"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        return [found for quant in context.gguf.quantized for found in _compare(context, lock, quant, folder, matrix)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _lock_of(context: Context) -> Lock:
    lock = read_committed_lock(context.loaded.lock_path) or read_lock(work_lock_path(context))
    if lock is None:
        raise InputError(f"{context.loaded.lock_path}: there is no lock to compare with; cut the release first")
    return lock


def _locked_imatrix(context: Context, lock: Lock, given: Path | None) -> Path | None:
    expected = imatrix_of(context)
    if expected is None:
        return None
    locked = lock.outputs.get(expected.relative_to(context.work).as_posix())
    path = given or expected
    require_file(path, "the published imatrix with --imatrix FILE")
    if locked is None:
        raise InputError(f"{context.loaded.lock_path}: locks no imatrix; cut the release first")
    if (found := sha256_file(path)) != locked.sha256:
        raise CheckFailedError(f"{path}: has SHA-256 {found}, the lock has {locked.sha256}; give the locked one with --imatrix")
    return path


def _compare(context: Context, lock: Lock, quant: Quant, folder: Path, imatrix: Path | None) -> Iterator[Requantized]:
    target = folder / context.gguf_file(quant.name).name
    _, files = make_quant(context, quant, target, imatrix)
    locked = {path.removeprefix("gguf/"): file for path, file in lock.outputs.items() if path.startswith("gguf/")}
    for file in files:
        name = file["name"]
        (folder / name).unlink()  # a ladder of quants would fill the disk
        if name not in locked:
            yield Requantized(quant.name, name, "BAD", "the lock has no such file")
        elif locked[name].sha256 == file["sha256"]:
            yield _as_locked(context, quant.name, name, file["sha256"])
        else:
            same = locked[name].tensor_data == file["tensor_digest"]
            what = "other metadata around the same tensors" if same else "other tensor data"
            reason = _excuse(context, lock, locked[name].made_with or {})
            yield Requantized(
                quant.name, name, "NOT BIT-EXACT" if reason else "BAD", f"{what}{f'; {reason}' if reason else ''}"
            )


def _as_locked(context: Context, quant: str, name: str, sha256: str) -> Requantized:
    """A file that was made again as locked: GOOD, unless the one in the work folder is another."""
    place = context.work / "gguf" / name
    if place.is_file() and (found := sha256_file(place)) != sha256:
        return Requantized(quant, name, "BAD", f"the file in the work folder has SHA-256 {found}; made again it is as locked")
    return Requantized(quant, name, "GOOD", sha256)


def _cut_again(context: Context, lock: Lock, quant: str, source: BaseQuant) -> Iterator[Requantized]:
    """The digests of what cutting the base's GGUF gives, whose own digests are compared in the same pass."""
    base, map_path = base_quant(context.loaded, source), drop_map_path(context)
    plan = plan_cut(base, read_drop_map(map_path), name=context.manifest.name, where=str(map_path))
    plans = split_plan(plan, context.gguf.max_shard_size)
    with context.progress.task(f"cutting {quant} again", sum(each.size for each in plans), "bytes") as advance:
        digests = planned_digests(plans, base, advance, pinned=source.digests)
    targets = cut_targets(context.gguf_file(quant), len(plans))
    for name, sha256 in zip([target.name for target in targets], digests, strict=True):
        if (locked := lock.outputs.get(f"gguf/{name}")) is None:
            yield Requantized(quant, name, "BAD", "the lock has no such file")
        elif sha256 == locked.sha256:
            yield _as_locked(context, quant, name, sha256)
        else:
            detail = f"cut from {source.label} it has SHA-256 {sha256}, the lock has {locked.sha256}"
            yield Requantized(quant, name, "BAD", detail)


def _excuse(context: Context, lock: Lock, made_with: dict[str, Any]) -> str:
    """Why two toolchains cannot be expected to agree, or nothing."""
    if (commit := made_with.get("llama.cpp", context.toolchain.commit)) != context.toolchain.commit:
        return f"locked with llama.cpp {commit}, here {context.toolchain.commit}"
    if made_with.get("converter", code := context.toolchain.converter_code) != code:
        return "locked with other code of the converter than here"
    if not context.self_test.bit_exact:
        return f"the toolchain here is {context.self_test}"
    if (tested := lock.inputs.tools.get("golden self-test", "bit-exact")) != "bit-exact":
        return f"the toolchain of the lock is {tested}"
    return ""


def requantize_table(found: Sequence[Requantized]) -> str:
    """One line a file."""
    return "\n".join(f"{each.verdict:<13}  {each.file}  {each.detail}" for each in found)
