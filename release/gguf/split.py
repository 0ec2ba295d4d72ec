"""Splitting a large GGUF into shards, by llama-gguf-split and under the names that llama.cpp loads from the first one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from pruner.errors import CheckFailedError
from pruner.files import require_space
from pruner.progress import SILENT, Advance, Progress
from release.gguf.reader import read_header
from release.gguf.scratch import OUTPUT, deliver, link, scratch_folder, tool_space
from release.gguf.shards import COUNT_KEY, MEGABYTE, shard_names
from release.gguf.summary import GgufSummary, digest_of_tensors, summarize
from release.gguf.toolchain import Toolchain
from release.processes import run_tool

TOOL = "llama-gguf-split"
MODEL, STEM = "model.gguf", "shard"
_WRITTEN = re.compile(r"^Writing file")


def split_gguf(
    toolchain: Toolchain,
    model: Path,
    stem: Path,
    *,
    max_bytes: int,
    tensor_digest: str,
    log: Path,
    progress: Progress = SILENT,
) -> list[tuple[str, GgufSummary]]:
    """Split a GGUF; the shards appear beside each other when all of them are complete and checked.

    Args:
        toolchain: provides llama-gguf-split.
        model: the file; not changed.
        stem: path of the shards without `-00001-of-0000N.gguf`.
        max_bytes: cap of a shard's tensor data, rounded down to whole megabytes; a single larger tensor is a shard of its own.
        tensor_digest: of the unsplit file; the shards' tensors together must have it.
        log: the tool's output is appended to it.
        progress: counts shards.

    Returns:
        Name and summary of each shard, in order.

    Raises:
        UnavailableError: the tool is missing, fails or is killed, or the disk is full.
        CheckFailedError: the shards do not hold the file's tensors.
    """
    with scratch_folder(stem) as folder:
        link(folder, MODEL, model, "GGUF")
        require_space(folder, model.stat().st_size, "splitting a GGUF")
        options = ["--split", "--split-max-size", f"{max(1, max_bytes // MEGABYTE)}M"]
        with progress.task(f"splitting {model.name}", None) as advance, tool_space(folder):
            run_tool([toolchain.binary(TOOL), *options, MODEL, STEM], log=log, folder=folder, on_line=_shards(advance))
        found = _check(folder, tensor_digest, progress)
        names = shard_names(stem.name, len(found))
        for path, name in zip([folder / each for each in shard_names(STEM, len(found))], names, strict=True):
            path.rename(folder / OUTPUT)
            deliver(folder, stem.with_name(name))
    return list(zip(names, found, strict=True))


def _check(folder: Path, tensor_digest: str, progress: Progress) -> list[GgufSummary]:
    count = len(list(folder.glob(f"{STEM}-*.gguf")))
    paths = [folder / name for name in shard_names(STEM, count)]
    if not paths or not all(path.is_file() for path in paths):
        raise CheckFailedError(f"{TOOL} reported success but its shards are not numbered 1 to {count}")
    if any(read_header(path).value(COUNT_KEY) != count for path in paths):
        raise CheckFailedError(f"{TOOL} reported success but a shard does not say that it is one of {count}")
    found = [summarize(path, progress) for path in paths]
    if digest_of_tensors(tensor for each in found for tensor in each.tensors) != tensor_digest:
        raise CheckFailedError(f"{TOOL} reported success but the shards do not hold the tensors of the file")
    return found


def _shards(advance: Advance) -> Callable[[str], None]:
    return lambda line: advance(1) if _WRITTEN.match(line) else None
