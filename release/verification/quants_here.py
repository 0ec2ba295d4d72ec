"""The GGUFs of a work folder, read from the disk once more: against what was made, and against the lock."""

from __future__ import annotations

from collections.abc import Mapping

from pruner.errors import CheckFailedError
from pruner.files import sha256_file
from pruner.wording import counted, counted_that, some
from release.context import Context
from release.lock import Difference, LockedFile, differences, read_committed_lock, read_lock
from release.records import read_record
from release.stages.calibrate import imatrix_of
from release.stages.lock import work_lock_path

FOLDERS = ("gguf/", "imatrix/")
Differences = Mapping[str, tuple[Difference, ...]]


def made_here(context: Context) -> dict[str, LockedFile]:
    """The quants and the importance matrix that were made in this work folder, by path in it."""
    stages = ["quantize", *(["calibrate"] if imatrix_of(context) else [])] if context.manifest.gguf else []
    records = filter(None, (read_record(context.work, stage) for stage in stages))
    return {
        path: LockedFile(sha256=output.sha256, size=output.size)
        for record in records
        for path, output in record.outputs.items()
        if path.startswith(FOLDERS)
    }


def compare_quants(context: Context) -> Differences:
    """Differences of the GGUFs on disk from what was made and from the lock, by name of the reference.

    One from the lock that other tools explain is none.  Empty when none were made here.
    """
    made = made_here(context)
    if not made:
        return {}
    found = _on_disk(context, made)
    result = {"build": differences(made, found)}
    if (lock := read_committed_lock(context.loaded.lock_path)) is not None:
        locked = {path: file for path, file in lock.outputs.items() if path.startswith(FOLDERS)}
        every = differences(locked, _with_tools(context, found))
        result["lock"] = tuple(each for each in every if each.explained is None)
    return result


def _on_disk(context: Context, made: Mapping[str, LockedFile]) -> dict[str, LockedFile]:
    """Those that are still there, as they are now."""
    places = {path: context.work / path for path in made if (context.work / path).is_file()}
    sizes = {path: place.stat().st_size for path, place in places.items()}
    with context.progress.task("digesting the quants", sum(sizes.values()), "bytes") as advance:
        return {path: LockedFile(sha256=sha256_file(place, advance), size=sizes[path]) for path, place in places.items()}


def _with_tools(context: Context, found: Mapping[str, LockedFile]) -> dict[str, LockedFile]:
    """The same with the tools that made each file, which the lock of this build names."""
    build = read_lock(work_lock_path(context))
    tools = {path: file.made_with for path, file in build.outputs.items()} if build else {}
    return {path: file.model_copy(update={"made_with": tools.get(path)}) for path, file in found.items()}


def shown_differences(result: Differences) -> dict[str, list[dict[str, str]]]:
    """Differences for machines."""
    return {name: [{"path": each.path, "kind": each.kind} for each in found] for name, found in result.items()}


def quants_text(context: Context, result: Differences) -> str:
    """One line on quants that are equal to every reference."""
    return f"{counted(len(made_here(context)), 'file')} of the quants equal to: {', '.join(result)}"


def require_equal_quants(result: Differences) -> None:
    """Raise CheckFailedError for the first reference that differs."""
    for name, found in result.items():
        if not found:
            continue
        if name == "build":
            raise CheckFailedError(f"{found[0]}: the file changed after it was written; run `moe-release quantize` again")
        shown = some([str(each) for each in found])
        raise CheckFailedError(
            f"{counted_that(len(found), 'quant file', 'differ')} from {name}: {shown}; accept with `cut --update-lock`"
        )
