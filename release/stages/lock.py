"""Lock: the digest of everything that was made, compared with the lock beside the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pruner.errors import CheckFailedError
from pruner.files import sha256_file, write_atomic
from pruner.wording import counted, counted_that, every, some
from release.attestation.provenance import PROVENANCE, provenance
from release.card.render import own_templates
from release.context import Context
from release.lock import Lock, LockedFile, differences, read_committed_lock, write_lock
from release.references import compare_inputs
from release.reproduce import page, sums
from release.stages.lock_draft import draft_lock
from release.stages.stage import Stage

STAGES = ("rank", "analyze", "calibrate", "quantize", "quality", "eval", "card")


def work_lock_path(context: Context) -> Path:
    """The lock of this very build; it is what gets published."""
    return context.work / "lock.json"


def sums_path(context: Context) -> Path:
    """Digests of the weights in the form of coreutils' sha256sum."""
    return context.work / "SHA256SUMS"


def gguf_sums_path(context: Context) -> Path:
    """The same of the files of the GGUF repository."""
    return context.work / "SHA256SUMS.gguf"


def page_path(context: Context) -> Path:
    """The page of commands that is published with the lock."""
    return context.work / "reproduce.md"


def provenance_path(context: Context) -> Path:
    """How the release was built, as an unsigned statement."""
    return context.work / PROVENANCE


def _run(context: Context) -> str:
    drafted = draft_lock(context, stages=STAGES)
    locked = read_committed_lock(context.loaded.lock_path)
    found = drafted if locked is None or context.options.update_lock else in_its_words(locked, drafted)
    write_lock(work_lock_path(context), found)
    own = own_templates(context.loaded.root, context.manifest.card.templates)
    write_atomic(sums_path(context), sums(found.weights()))
    write_atomic(gguf_sums_path(context), sums(found.quants()))
    write_atomic(page_path(context), page(context.manifest, own).encode())
    write_atomic(provenance_path(context), provenance(context.manifest, sha256_file(context.loaded.path), found))
    if locked is None and context.options.rehearsal:
        return f"{counted(len(found.outputs), 'output')}; no lock yet: the real run writes {context.loaded.lock_path.name}"
    if locked is None or context.options.update_lock:
        if context.options.skip - {"publish", "readback"}:
            return "not written beside the manifest: stages were skipped"
        write_lock(context.loaded.lock_path, found)
        return f"{counted(len(found.outputs), 'output')}, written to {context.loaded.lock_path}"
    return _compare(locked, found, everything=not context.options.skip)


def in_its_words(locked: Lock, found: Lock) -> Lock:
    """The lock of a build; where it says the same as the committed lock, the words of that one with the seconds of this build.

    Another way to read the base, another processor or another version of a tool that gave the same bytes makes no other
    release: published again, nothing changes.
    """
    if _bare(locked) != _bare(found):
        return found
    seconds = {path: file for path, file in found.outputs.items() if file.varies}
    return locked.model_copy(update={"outputs": {**locked.outputs, **seconds}})


def _bare(lock: Lock) -> bytes:
    """A lock without what may differ between two builds of one release: how files were read, which tools ran, seconds."""

    def bare(files: Mapping[str, LockedFile]) -> dict[str, LockedFile]:
        words: dict[str, object] = {"made_with": None, "listed": None}
        seconds = {**words, "sha256": "", "size": 0}
        return {path: file.model_copy(update=seconds if file.varies else words) for path, file in files.items()}

    base = lock.inputs.base.model_copy(update={"files": bare(lock.inputs.base.files)})
    inputs = lock.inputs.model_copy(update={"base": base, "files": bare(lock.inputs.files), "tools": {}})
    return lock.model_copy(update={"inputs": inputs, "outputs": bare(lock.outputs)}).to_bytes()


def _compare(locked: Lock, found: Lock, *, everything: bool) -> str:
    """Refuse other inputs, and a difference that nothing explains; report what other tools or another processor explain.

    Files that are missing are no difference when stages were skipped: they were not made by this run.
    """
    if others := changed_inputs(locked, found):
        raise CheckFailedError(f"made from other inputs than the lock: {', '.join(others)}; accept them with --update-lock")
    changed = [each for each in differences(locked.outputs, found.outputs) if everything or each.kind != "missing"]
    wrong = [each for each in changed if each.explained is None]
    if wrong:
        shown = some([str(each) for each in wrong])
        raise CheckFailedError(
            f"{counted_that(len(wrong), 'output', 'differ')} from the lock: {shown}; accept them with --update-lock"
        )
    varying = sum(file.varies is not None for file in found.outputs.values())
    beside = f"; {varying} with seconds, which vary" if varying else ""
    if changed:
        equal = counted(len(found.outputs) - len(changed) - varying, "output")
        return f"{equal} equal, {len(changed)} not comparable: {changed[0]}{beside}"
    return f"{every(len(found.outputs) - varying, 'output')} equal{beside}"


def changed_inputs(locked: Lock, found: Lock) -> list[str]:
    """Names of the inputs that differ."""
    return [each.name for each in compare_inputs(locked.inputs, found.inputs) if each.status != "equal"]


STAGE = Stage(
    name="lock",
    title="locking digests",
    run=_run,
    outputs=lambda context: (work_lock_path(context), sums_path(context), gguf_sums_path(context), page_path(context)),
    needs=("prune",),
)
