"""A checkpoint folder as its headers, index and config describe it; no tensor data is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pruner.errors import InputError
from pruner.families import Architecture, architecture_of, layer_order
from pruner.safetensors_format import Header, TensorInfo
from pruner.sources import TEMPLATES, Source, as_source, read_source_header, read_source_json
from pruner.wording import some

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
METADATA = "expert_drop_metadata.json"
NOT_COPIED = frozenset({"README.md", INDEX, METADATA, "config.json"})
"""Files of the base that a build writes anew, and the base's card, which is not ours to republish."""


COPIED_SUFFIXES = (".json", ".jinja", ".model", ".tiktoken", ".txt")
TERMS = re.compile(r"(?:LICEN[CS]E|NOTICE|USE_POLICY|USAGE_POLICY|ACCEPTABLE_USE)[\w.-]*", re.IGNORECASE)
"""Names of files that whoever publishes a variant must pass on."""
TOKENIZER = re.compile(r"tokenizer\.[\w.-]+")
CODE = re.compile(r".+\.(?:py|pyc|so|pkl|pickle|bin|pt|pth|ckpt|msgpack|h5|onnx|safetensors|gguf)", re.IGNORECASE)
"""Names of code, and of weights of other formats, which may run code when they are loaded."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor and the shard that holds it."""

    shard: str
    info: TensorInfo


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint: config, tensors in index order (shards by name, then as the index lists them), names of other files."""

    source: Source
    config: Mapping[str, Any]
    architecture: Architecture
    tensors: Mapping[str, StoredTensor]
    shards: tuple[str, ...]
    others: tuple[str, ...]
    """Files that a build copies."""
    left: tuple[str, ...] = ()
    """What a build does not copy and somebody may miss: code, weights in other formats, what nobody knows, whole folders."""

    @property
    def left_code(self) -> tuple[str, ...]:
        """Code of the base's own that its config names, and that is not copied: the variant may not load without it."""
        named = self.config.get("auto_map")
        words = (
            [word for each in named.values() for word in (each if isinstance(each, list) else [each])]
            if isinstance(named, dict)
            else []
        )
        modules = {f"{word.partition('.')[0]}.py" for word in words if isinstance(word, str) and "--" not in word}
        return tuple(sorted(modules & set(self.left)))

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a user should know of files that a build does not copy, in lines."""
        lines = [f"not copied: {some(self.left, 8)}"] if self.left else []
        if self.left_code:
            lines.append(
                f"warning: config.json wants {', '.join(self.left_code)}, code of the base, which is not copied; if you trust "
                "it, put it beside the variant yourself: it may not load without"
            )
        return tuple(lines)

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers that have experts, in order; the multi-token prediction block, if there is one, comes last as `mtp`."""
        found = {place.layer for name in self.tensors if (place := self.architecture.classify(name))}
        return tuple(sorted(found, key=layer_order))

    @property
    def files(self) -> tuple[str, ...]:
        """Every file of the base that determines the build."""
        return tuple(sorted({*self.shards, *self.others, "config.json", *((INDEX,) if INDEX in self.source.files else ())}))

    @property
    def tensor_bytes(self) -> int:
        """Bytes of tensor data."""
        return sum(tensor.info.size for tensor in self.tensors.values())

    @property
    def parameters(self) -> int:
        """Number of elements of all tensors."""
        return sum(tensor.info.elements for tensor in self.tensors.values())


def open_checkpoint(base: Path | Source) -> Checkpoint:
    """Read config, index and headers of a checkpoint, also of a Hugging Face cache snapshot or a repository of the Hub.

    Raises:
        InputError: the folder or one of its parts is missing or damaged, the index and the headers disagree, or the model's
            family is unknown.
        UnavailableError: a remote source cannot be reached.
    """
    source = as_source(base)
    where = f"{source.label}/config.json"
    if "config.json" not in source.files:
        raise InputError(f"{where}: does not exist; is {source.label} a checkpoint?")
    config = read_source_json(source, "config.json", "the model's config.json")
    if not isinstance(config, dict):
        raise InputError(f"{where}: expected a mapping")
    architecture = architecture_of(config, where)
    header = cache(lambda shard: read_source_header(source, shard))
    weight_map = _weight_map(source, header)
    shards = tuple(sorted(set(weight_map.values())))
    headers = {shard: {tensor.name: tensor for tensor in header(shard).tensors} for shard in shards}
    _require_agreement(source, weight_map, headers)
    by_shard: dict[str, list[str]] = {shard: [] for shard in shards}
    for name, shard in weight_map.items():
        by_shard[shard].append(name)
    tensors = {name: StoredTensor(shard, headers[shard][name]) for shard in shards for name in by_shard[shard]}
    beside = [name for name in source.files if not _is_hidden(name) and name not in NOT_COPIED and name not in shards]
    others = tuple(sorted(name for name in beside if is_companion(name)))
    folders = [f"{name}/" for name in source.folders if not _is_hidden(name)]
    left = tuple(sorted({*beside, *folders} - set(others)))
    return Checkpoint(source, config, architecture, tensors, shards, others, left)


def _weight_map(source: Source, header: Callable[[str], Header]) -> dict[str, str]:
    """Tensor name to shard name, in the order of the index; of a single file, in the order of its data."""
    files = source.files
    where = f"{source.label}/{INDEX}"
    if INDEX not in files:
        if SINGLE not in files:
            raise InputError(f"{source.label}: holds neither {INDEX} nor {SINGLE}; is it a safetensors checkpoint?")
        return {tensor.name: SINGLE for tensor in header(SINGLE).tensors}
    index = read_source_json(source, INDEX, "the index")
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{where}: has no weight_map")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise InputError(f"{where}: tensor {name!r} is said to be in {shard!r}, which is no shard of this folder")
        if shard not in files:
            raise InputError(f"{where}: names {shard}, which is missing; fetch it")
    return weight_map


def _require_agreement(source: Source, weight_map: Mapping[str, str], headers: Mapping[str, Mapping[str, TensorInfo]]) -> None:
    for name, shard in weight_map.items():
        if name not in headers[shard]:
            raise InputError(
                f"{source.label}/{INDEX}: tensor {name!r} is not in {shard}; index and shards are not of one model"
            )
    for shard, tensors in headers.items():
        if extra := next((name for name in tensors if weight_map.get(name) != shard), None):
            raise InputError(f"{source.label}/{shard}: holds tensor {extra!r}, which the index does not know here")


def is_companion(name: str) -> bool:
    """Whether a build copies a file of this name: tokenizer, templates, configs, license; no weights, no card, no code."""
    if name.startswith("adapter_") or _is_hidden(name) or name in NOT_COPIED or CODE.fullmatch(name):
        return False
    folder, _, inside = name.rpartition("/")
    if folder:
        return folder == TEMPLATES and inside.endswith(".jinja")
    return name.endswith(COPIED_SUFFIXES) or bool(TERMS.fullmatch(name) or TOKENIZER.fullmatch(name))


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
