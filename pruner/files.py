"""Bytes on disk: digests, atomic writes, canonical JSON, paths that stay in their folder."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeGuard

from pruner.errors import InputError, UnavailableError
from pruner.places import require_possible, unreadable
from pruner.workers import require_wanted

BLOCK = 1 << 20
LARGEST_JSON = 1 << 28
"""Bytes of a JSON file that is read when nobody says how many."""
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of `data` as lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file's content as lower-case hex, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            require_wanted()
            digest.update(block)
            if advance:
                advance(len(block))
    return digest.hexdigest()


def git_blob_id(data: bytes) -> str:
    """SHA-1 that git gives a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, two spaces of indentation and a final newline: equal values give equal bytes."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def require_canonical(value: Any, where: str) -> None:
    """Raise InputError when foreign JSON holds what no file of ours could: a number that is none, half a surrogate pair."""
    try:
        canonical_json(value)
    except (ValueError, RecursionError):
        raise InputError(f"{where}: holds a number or text that no JSON should (NaN, half a surrogate pair)") from None


def is_text(value: object) -> TypeGuard[str]:
    """Whether it is a string that UTF-8 can hold; JSON may carry half of a surrogate pair."""
    return isinstance(value, str) and value == value.encode(errors="replace").decode()


def require_whole_text(value: Any) -> None:
    """Raise UnicodeEncodeError when a JSON value holds half of a surrogate pair anywhere."""
    json.dumps(value, ensure_ascii=False).encode()


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON value's canonical form."""
    return sha256_bytes(canonical_json(value))


def read_json(path: Path, what: str, maximum: int = LARGEST_JSON) -> Any:
    """Parse a JSON file of at most `maximum` bytes; `what` names it in the error.

    Raises:
        InputError: the file is missing, cannot be read or is too large, or no JSON (with line and column).
    """
    require_possible(path)
    try:
        data = bytearray()
        with path.open("rb") as file:
            while block := file.read(BLOCK):  # a device has no size, and no end
                data += block
                if len(data) > maximum:
                    raise InputError(f"{path}: {what} is larger than {maximum:,} bytes")
    except OSError as error:
        raise InputError(f"{path}: {what} {unreadable(path, error)}") from None
    return parse_json(bytes(data), str(path), what)


def parse_json(data: bytes, where: str, what: str) -> Any:
    """Parse JSON that came from `where`; `what` names it in the error.

    Raises:
        InputError: it is no JSON (with line and column), a key stands twice, or a text is half of a surrogate pair.
    """
    if not data or data.isspace():
        raise InputError(f"{where}: {what} is empty; JSON was expected")
    try:
        value = json.loads(data, object_pairs_hook=_no_duplicate_keys)
        if _MAY_BE_HALF.search(data):
            require_whole_text(value)
    except UnicodeEncodeError:
        raise InputError(
            f"{where}: {what} holds half of a surrogate pair, which is no text; write the whole character"
        ) from None
    except json.JSONDecodeError as error:
        raise InputError(f"{where}:{error.lineno}:{error.colno}: {what} is not JSON: {error.msg}") from None
    except UnicodeDecodeError:
        raise InputError(f"{where}: {what} is no text; JSON was expected") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: {what} is not usable JSON: {error}") from None
    return value


_MAY_BE_HALF = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]|\x00")
"""An escaped or a raw half of a surrogate pair; UTF-16 and UTF-32, which Python reads too, hold zeros."""


def _no_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice!r} appears twice")
    return result


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a temporary sibling path; when the body succeeds it is fsynced and renamed onto `target`.

    Raises:
        UnavailableError: the disk is full.
    """
    with write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        temporary = Path(name)
        try:
            with suppress(OSError):  # a file system without locks; `remove_leftovers` asks whether a writer is alive
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(target)
            fsync_folder(target.parent)
        finally:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)


def write_atomic(target: Path, data: bytes) -> None:
    """Write `data` to `target` so that a reader sees the old content or the new, never a part."""
    with atomic_file(target) as temporary:
        temporary.write_bytes(data)


LEFTOVER = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")
"""A temporary name of `atomic_file`: `tempfile` puts eight characters of this set between prefix and suffix."""


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that killed runs of `atomic_file` left under `folder`; those that are being written are locked."""
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names if LEFTOVER.fullmatch(name)):
            with suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def remove(path: Path) -> None:
    """Remove what is there, if anything: a folder with all that is in it, a file, a link but nothing of what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a fresh temporary sibling folder; when the body succeeds it replaces `target`.

    A folder left behind by a killed run is removed first.  The old `target` is moved aside and deleted only after the new
    one stands under its name.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    old = target.with_name(f".{target.name}.old")
    for left in (temporary, old):
        remove(left)
    with write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            yield temporary
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        fsync_folder(temporary)
        if os.path.lexists(target):
            target.rename(old)
        temporary.rename(target)
        fsync_folder(target.parent)
        remove(old)


@contextmanager
def write_errors(target: Path) -> Iterator[None]:
    """Turn a full disk, or a place that may not be written, into one line that names the target."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UnavailableError(f"{target}: no space left on the disk; free some and run again") from None
        if error.errno in UNWRITABLE and _about(error, target):
            remedy = f"give yourself the right to write in {target.parent}, or choose another place"
            raise UnavailableError(f"{target}: cannot be written: {error.strerror}; {remedy}") from None
        raise


def _about(error: OSError, target: Path) -> bool:
    """Whether an error is about the target: itself, a folder above it, or what stands for it until it is complete."""
    named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else target
    return target.is_relative_to(named) or (named.parent == target.parent and named.name.startswith(f".{target.name}."))


def require_space(folder: Path, needed: int, what: str, elsewhere: str = "choose another place") -> None:
    """Raise UnavailableError when the disk of `folder` has fewer than `needed` bytes free; `elsewhere` says how to avoid it."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UnavailableError(f"{folder}: {what} needs {needed:,} bytes and {free:,} are free; free some, or {elsewhere}")


def path_inside(root: Path, relative: str) -> Path:
    """Resolve `relative` under `root`.

    Raises:
        InputError: it is absolute or leaves `root`, also through a symbolic link, or no file can have this name.
    """
    if "\0" in relative:
        raise InputError(f"{relative!r}: no file can have this name")
    candidate = Path(os.path.normpath(root / relative))
    if Path(relative).is_absolute() or not candidate.is_relative_to(os.path.normpath(root)):
        raise InputError(f"{relative!r}: a path must be relative and may not leave {root.name or root}/")
    try:
        inside = not candidate.exists() or candidate.resolve().is_relative_to(root.resolve())
    except (OSError, ValueError) as error:  # too long for the file system, or half of a surrogate pair
        raise InputError(f"{relative!r}: no file can have this name: {error.__class__.__name__}") from None
    if not inside:
        raise InputError(f"{relative!r}: a symbolic link may not leave {root.name or root}/")
    return candidate
