"""Digests that weights must have: of a lock, of lines of `sha256sum`, or of a repository's listing; and the comparison."""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pruner.errors import InputError, printable
from pruner.files import digest_of
from pruner.places import require_file
from pruner.progress import SILENT, Progress
from pruner.sources import HUB_PREFIX, LocalSource, Source, SourceFile, digested, open_source, require_no_near_address
from pruner.strangers import taken_for
from pruner.wording import counted, every, some
from pruner.workers import executor_or_threads
from release.lock import LockedFile, LockedInputs, differences, read_lock

SUMS_LINE = re.compile(r"^([0-9a-f]{64}) [ *](\S.*)$")
CARD = "README.md"
RECORDS = ("lock.json", "SHA256SUMS")
RUN = ("weights", "code")
Status = Literal["equal", "changed", "missing", "new"]


@dataclass(frozen=True)
class Reference:
    """Digests by file name.  A `complete` one names every file of the weights; others may name the shards alone."""

    label: str
    files: Mapping[str, SourceFile]
    complete: bool


@dataclass(frozen=True)
class Comparison:
    """One file of a target against a reference; digests are SHA-256, or git's SHA-1 with `git:` before it."""

    name: str
    status: Status
    expected: str | None
    found: str | None


def read_reference(
    address: str | Path, *, quants: bool = False, endpoint: str | None = None, token: str | None = None
) -> Reference:
    """The reference that a path or `hf://org/name@revision` names; of a lock its weights, with `quants` also its GGUFs.

    Raises:
        InputError: it cannot be read as a lock or as lines of sha256sum.
        UnavailableError: the Hub does not answer, or does not give the repository.
    """
    if str(address).startswith(HUB_PREFIX):
        return listing(open_source(str(address), endpoint=endpoint, token=token))
    require_no_near_address(str(address))
    path = Path(address)
    if path.is_dir():
        path = _record_of(path)
    require_file(path, "a lock, a SHA256SUMS file, a folder with one of them, or hf://org/name")
    if path.suffix == ".json":
        lock = read_lock(path)
        locked = {**(lock.quants() if lock and quants else {}), **(lock.weights() if lock else {})}
        files = {name: SourceFile(name, file.size, file.sha256) for name, file in locked.items()}
        return Reference(path.name, files, complete=True)
    return Reference(path.name, parse_sums(path), complete=False)


def _record_of(folder: Path) -> Path:
    """The lock of a folder, or its SHA256SUMS: of a work folder, or of a published one, where they stand in reproduce/.

    Raises:
        InputError: it has neither, or several locks.
    """
    for place in (folder, folder / "reproduce"):
        locks = sorted({*place.glob("lock.json"), *place.glob("*.lock.json")})
        if len(locks) > 1:
            raise InputError(f"{folder}: has several locks, {locks[0].name} and {locks[1].name}; name one of them")
        if found := [path for path in (*locks, place / "SHA256SUMS") if path.is_file()]:
            return found[0]
    raise InputError(f"{folder}: has neither a lock nor SHA256SUMS; `moe-release diff` compares two folders of weights")


def listing(source: Source) -> Reference:
    """What a repository lists, without reading it; its card and hidden files are no weights."""
    files = {name: file for name, file in source.files.items() if _of_weights(name)}
    return Reference(source.label, files, complete=True)


def _of_weights(name: str) -> bool:
    return name not in (CARD, *RECORDS) and not name.startswith(".") and not name.endswith(".lock.json")


LARGEST_SUMS = 16 << 20


def parse_sums(path: Path) -> dict[str, SourceFile]:
    """Digests by name of a SHA256SUMS file; raises InputError for anything else."""
    files = {}
    if path.stat().st_size > LARGEST_SUMS:
        raise InputError(f"{path}: {path.stat().st_size:,} bytes are too many for lines of sha256sum")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path}: neither a lock nor lines of sha256sum") from None
    for number, line in enumerate(lines, 1):
        if not (match := SUMS_LINE.match(line)):
            raise InputError(f"{path}:{number}: expected lines of sha256sum: a digest, two spaces, a file name")
        name = match[2].removeprefix("./").removeprefix("weights/")
        files[name] = SourceFile(name, 0, match[1])
    if not files:
        raise InputError(f"{path}: is empty; expected lines of sha256sum: a digest, two spaces, a file name")
    return files


def compare(
    target: Source,
    reference: Reference,
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> tuple[Comparison, ...]:
    """Compare a target's files with a reference, in name order.  What both list is compared without reading.

    Weights of any format and code that the reference does not list are `new`: loaders may run them.  Other files only where
    the reference lists everything.

    Raises:
        InputError, UnavailableError: a file of the target cannot be read.
    """
    found = {name: file for name, file in target.files.items() if _of_weights(name)}
    expected = reference.files
    read = {name: file for name, file in found.items() if name in expected and not _comparable(file, expected[name])}
    with executor_or_threads(executor, workers) as (pool, shared):
        total = sum(file.size for file in read.values())
        with progress.task("digesting files", total, "bytes") as advance:
            pending = {name: pool.submit(digested, target, file, advance if shared else None) for name, file in read.items()}
            found |= {name: future.result() for name, future in pending.items()}
    names = sorted({*expected, *(name for name in found if reference.complete or taken_for(name) in RUN)})
    return tuple(_comparison(name, expected.get(name), found.get(name)) for name in names)


def compare_file(path: Path, reference: Reference, *, progress: Progress = SILENT) -> Comparison:
    """Compare one file, such as a downloaded GGUF, with what a reference says of its name; the others are not looked at.

    Raises:
        InputError: the reference names no such file, or the file cannot be read.
    """
    expected = reference.files.get(path.name)
    size = path.stat().st_size
    with progress.task("digesting the file", size, "bytes") as advance:
        found = digested(LocalSource(path.parent), SourceFile(path.name, size), advance)
    if expected is None:
        same = next((name for name, file in reference.files.items() if file.sha256 == found.sha256), None)
        others = f"by its digest it is {same}" if same else f"it names {some([*reference.files])}"
        raise InputError(f"{reference.label}: names no {path.name}; {others}")
    return _comparison(path.name, expected, found)


def _comparable(one: SourceFile, other: SourceFile) -> bool:
    return None not in (one.sha256, other.sha256) or None not in (one.blob_id, other.blob_id)


def _comparison(name: str, expected: SourceFile | None, found: SourceFile | None) -> Comparison:
    if expected is None or found is None:
        status: Status = "new" if expected is None else "missing"
        return Comparison(name, status, _digest(expected), _digest(found))
    by_git = None in (expected.sha256, found.sha256)
    one, other = (f"git:{expected.blob_id}", f"git:{found.blob_id}") if by_git else (expected.sha256, found.sha256)
    return Comparison(name, "equal" if one == other else "changed", one, other)


def _digest(file: SourceFile | None) -> str | None:
    if file is None or file.sha256 is not None:
        return file.sha256 if file else None
    return f"git:{file.blob_id}" if file.blob_id is not None else None


def compare_locked(expected: Mapping[str, LockedFile], found: Mapping[str, LockedFile]) -> tuple[Comparison, ...]:
    """Two sets of digests that are known, in path order."""
    other = {each.path: each.kind for each in differences(expected, found)}

    def digest(files: Mapping[str, LockedFile], name: str) -> str | None:
        return files[name].sha256 if name in files else None

    names = sorted({*expected, *found})
    return tuple(Comparison(name, other.get(name, "equal"), digest(expected, name), digest(found, name)) for name in names)


def compare_inputs(locked: LockedInputs, found: LockedInputs) -> tuple[Comparison, ...]:
    """What two releases were made from: the base and its files, files of the manifest, drop map and protocol."""
    base = compare_locked(locked.base.files, found.base.files)
    words = {
        "the base's name": (locked.base.name, found.base.name),
        "the base's commit": (locked.base.revision, found.base.revision),
        "the drop map": tuple(None if each.drop_map is None else digest_of(each.drop_map) for each in (locked, found)),
        "the protocol": (locked.protocol, found.protocol),
    }
    return (
        *(replace(each, name=f"base file {each.name}") for each in base),
        *compare_locked(locked.files, found.files),
        *(Comparison(what, _status(one, other), one, other) for what, (one, other) in words.items() if one or other),
    )


def _status(expected: str | None, found: str | None) -> Status:
    if expected == found:
        return "equal"
    return "new" if expected is None else "missing" if found is None else "changed"


def comparison_table(found: tuple[Comparison, ...], target: str, reference: Reference) -> str:
    """The comparison as lines for a person."""
    width = max((len(each.name) for each in found), default=0)
    lines = [printable(f"{each.status:<8} {each.name:<{width}}  {_detail(each)}".rstrip()) for each in found]
    wrong = sum(each.status != "equal" for each in found)
    missing = sum(each.status == "missing" for each in found)
    among = f", {missing} of them missing" if 0 < missing < wrong else ", all of them missing" if missing else ""
    differ = f"{wrong} of {counted(len(found), 'file')} differ{'s' if wrong == 1 else ''}{among}"
    outcome = differ if wrong else f"{every(len(found), 'file')} equal"
    return "\n".join([*lines, f"{target} against {reference.label}: {outcome}"])


def _detail(each: Comparison) -> str:
    return f"{each.found}, expected {each.expected}" if each.status == "changed" else each.expected or each.found or ""
