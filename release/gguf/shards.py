"""The parts of a split GGUF: the names by which llama.cpp finds them, and the keys that number them in their headers."""

from __future__ import annotations

import re

from pruner.errors import InputError

NUMBER_KEY, TENSORS_KEY, COUNT_KEY = "split.no", "split.tensors.count", "split.count"
SPLIT_KEYS = (NUMBER_KEY, TENSORS_KEY, COUNT_KEY)
"""What llama-gguf-split adds to each part, in its order; a file that `--merge` made keeps them, with a count of 0."""
MOST_PARTS = 500
"""Parts that one model may be in; what bounds the headers that a hostile name can ask for."""
MEGABYTE = 10**6
"""llama-gguf-split takes whole megabytes."""
SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)


def shard_names(stem: str, count: int) -> list[str]:
    """The names that llama.cpp gives to shards and looks for (`llama_split_path` of its source)."""
    return [f"{stem}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]


def all_shards(name: str) -> list[str]:
    """The names, in order, of all files of the model that `name` stands for: its first shard, or its only file.

    Raises:
        InputError: it is another shard than the first, or one of no sensible number.
    """
    found = SHARD.search(name)
    if found is None:
        return [name]
    number, count, stem = int(found[1]), int(found[2]), name[: found.start()]
    if not 1 <= count <= MOST_PARTS or not 1 <= number <= count:
        raise InputError(f"{name}: no part of a split GGUF has this number; at most {MOST_PARTS} parts are read")
    names = shard_names(stem, count)
    if number != 1:
        raise InputError(f"{name}: is part {number} of {count} of a split GGUF; give the first, {names[0]}")
    return [name, *names[1:]]
