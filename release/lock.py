"""Locks: the digest of every input and output of a release, and the comparison of a build with them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from pruner.build import FileDigest
from pruner.errors import CheckFailedError, InputError, first_problem
from pruner.files import canonical_json, digest_of, read_json, require_canonical, write_atomic
from pruner.tensor_digests import TensorDigests, tensor_data_digest
from pruner.wording import counted, some
from release.documents import Document

LARGEST_LOCK = 64 << 20
"""Bytes; one on a Hub that is larger is not read."""


def timing_key(quant: str) -> str:
    """Where the seconds of a quant's run stand in the work folder."""
    return f"eval/{quant}/timing.json"


DIGEST = "digest"
VARYING = re.compile(timing_key("[^/]+").replace(".", r"\."))
"""The outputs that differ from run to run whatever made them: seconds.  No other file may be exempt from a comparison."""


LARGEST_FILE = 1 << 50
"""Bytes of a file that a lock may list: no host takes a larger one."""
FileSize = Annotated[int, Field(strict=True, ge=0, le=LARGEST_FILE)]


class LockedFile(Document):
    """A file's digest and size.

    `listed` marks the digest that a Hub lists of a file that was read by ranges only.  `tensors` is of shards only.
    `cut_from` names the base's GGUF that a quant was cut from, `copied_from` the base's file that a projector is.
    `made_with` names the tools that a file's bytes depend on beside its inputs: two builds with other tools cannot be expected
    to agree, two with the same must.  `varies` marks what no two builds agree on: the digest is that of one build, which
    published it.
    """

    sha256: str
    size: FileSize
    listed: Literal[True] | None = None
    tensors: Mapping[str, Mapping[str, Any]] | None = None
    tensor_data: str | None = None
    cut_from: str | None = None
    copied_from: str | None = None
    made_with: dict[str, str] | None = None
    varies: Literal[True] | None = None


class LockedBase(Document):
    """The base: its name, its commit and the digests of all files that the build depends on."""

    name: str
    revision: str | None = None
    files: dict[str, LockedFile]


class LockedInputs(Document):
    """Everything that a release was made from."""

    base: LockedBase
    drop_map: dict[str, list[int]] | None = None
    protocol: str | None = None
    files: dict[str, LockedFile] = Field(default_factory=dict)
    tools: dict[str, str] = Field(default_factory=dict)


class Lock(Document):
    """Canonical JSON beside the manifest; no dates, no paths of a machine.

    Its file also holds `digest`, the SHA-256 of the canonical form of everything else: so that damage and a change by hand are
    seen wherever they are, also in words that nothing is compared with.  Locks from before it have none.
    """

    schema_: Literal["moe-release/lock/v1"] = Field("moe-release/lock/v1", alias="schema")
    name: str
    inputs: LockedInputs
    tensor_data: str | None = Field(None, description="Digest over the weights' tensors alone, whatever their packaging.")
    outputs: dict[str, LockedFile] = Field(default_factory=dict, description="By path in the work folder.")

    @model_validator(mode="after")
    def _only_seconds_vary(self) -> Self:
        """A lock that could exempt a shard from a comparison would prove nothing."""
        files = {**self.inputs.base.files, **self.inputs.files}
        exempt = [path for path, file in files.items() if file.varies]
        exempt += [path for path, file in self.outputs.items() if file.varies and not VARYING.fullmatch(path)]
        if exempt:
            raise ValueError(f"varies stands at {exempt[0]!r}, and only seconds vary: {timing_key('QUANT')}")
        return self

    def to_bytes(self) -> bytes:
        """The lock's canonical form."""
        content = self.model_dump(by_alias=True, exclude_none=True)
        return canonical_json({**content, DIGEST: digest_of(content)})

    def weights(self) -> dict[str, LockedFile]:
        """The files of the weights folder by name."""
        return {path.removeprefix("weights/"): file for path, file in self.outputs.items() if path.startswith("weights/")}

    def quants(self) -> dict[str, LockedFile]:
        """The quants, what they were made with and what was measured of them, by name in the GGUF repository."""
        folders = ("gguf/", "imatrix/")
        found = {path.partition("/")[2]: file for path, file in self.outputs.items() if path.startswith(folders)}
        return found | {path: file for path, file in self.outputs.items() if path == "quality.json"}

    def quant_files(self, quant: str) -> list[str]:
        """The files of a quant in the GGUF repository, in order: one, or its shards.

        Raises:
            CheckFailedError: the lock lists none.
        """
        wanted = re.compile(rf"gguf/{re.escape(f'{self.name}-{quant}')}(-\d{{5}}-of-\d{{5}})?\.gguf")
        found = sorted(path for path in self.outputs if wanted.fullmatch(path))
        if not found:
            raise CheckFailedError(f"the lock lists no file of {quant}")
        return [path.removeprefix("gguf/") for path in found]

    def quant_digest(self, quant: str) -> str:
        """What evidence calls the SHA-256 of its model: see `digest_of_quant`.

        Raises:
            CheckFailedError: the lock lists no file of this quant.
        """
        return digest_of_quant([self.outputs[f"gguf/{name}"].sha256 for name in self.quant_files(quant)])


def digest_of_quant(digests: Sequence[str]) -> str:
    """SHA-256 of a quant's only file; of one in shards, the digest of the shards' digests."""
    return digests[0] if len(digests) == 1 else digest_of(list(digests))


LARGEST = 64 << 20
"""Bytes of a file that is still read as a lock."""


def read_lock(path: Path) -> Lock | None:
    """The lock, or None if there is none yet.

    Raises:
        InputError: it cannot be read as a lock, or is not what was written.
    """
    if not path.exists():
        return None
    content = read_json(path, "the lock", LARGEST)
    require_canonical(content, str(path))
    rest = {key: value for key, value in content.items() if key != DIGEST} if isinstance(content, dict) else content
    try:
        lock = Lock.model_validate(rest)
    except ValidationError as error:
        raise InputError(f"{path}: not a usable lock: {first_problem(error)}") from None
    if DIGEST in content and content[DIGEST] != digest_of(rest):
        raise InputError(f"{path}: was damaged or edited by hand: the digest inside it is not the digest of its content")
    return lock


def read_committed_lock(path: Path) -> Lock | None:
    """The lock beside a manifest, or None if there is none yet.

    Raises:
        InputError: it cannot be read as a lock.
    """
    try:
        return read_lock(path)
    except InputError as error:
        raise InputError(f"{error}; restore it from version control: it says what this release was") from None


def write_lock(path: Path, lock: Lock) -> None:
    """Store a lock atomically."""
    write_atomic(path, lock.to_bytes())


def locked_weights(files: Sequence[FileDigest], tensors: Mapping[str, TensorDigests]) -> dict[str, LockedFile]:
    """Lock entries of a build, by path in the work folder; `tensors` are digests of tensors by the SHA-256 of their shard."""
    return {
        f"weights/{file.name}": LockedFile(sha256=file.sha256, size=file.size, tensors=tensors.get(file.sha256))
        for file in files
    }


def tensor_data_of(files: Mapping[str, LockedFile]) -> str | None:
    """The digest over the tensor data of the weights alone; None while the tensors of a shard are not digested."""
    weights = (file for path, file in files.items() if path.startswith("weights/") and path.endswith(".safetensors"))
    shards = [file.tensors for file in weights]
    return tensor_data_digest(tensors for tensors in shards if tensors is not None) if shards and None not in shards else None


@dataclass(frozen=True)
class Difference:
    """A file that is not as locked.  `explained` when other tools made it, so that the difference proves nothing."""

    path: str
    kind: Literal["missing", "new", "changed"]
    explained: str | None = None

    def __str__(self) -> str:
        return f"{self.path} ({self.kind}{f'; {self.explained}' if self.explained else ''})"


def differences(locked: Mapping[str, LockedFile], found: Mapping[str, LockedFile]) -> tuple[Difference, ...]:
    """Compare two sets of files by digest, in path order; of those that vary, only whether both sets have them."""
    result = []
    for path in sorted({*locked, *found}):
        if path not in found:
            result.append(Difference(path, "missing"))
        elif path not in locked:
            result.append(Difference(path, "new"))
        elif locked[path].sha256 != found[path].sha256 and not (locked[path].varies and found[path].varies):
            result.append(Difference(path, "changed", _other_tools(locked[path], found[path])))
    return tuple(result)


UNSAID = frozenset({"converter"})
"""What older locks do not say of the tools: they explain nothing there."""


def _other_tools(locked: LockedFile, found: LockedFile) -> str | None:
    before, here = locked.made_with or {}, found.made_with or {}
    names = {*before, *here} - (UNSAID - before.keys())
    changed = [name for name in sorted(names) if before.get(name) != here.get(name)]
    if not changed:
        return None
    name = changed[0]
    return f"locked with {name} {before.get(name, 'unknown')}, here {here.get(name, 'unknown')}"


def explain_weights(locked: Lock, found: Lock) -> str:
    """Say in one line why a build's weights differ from the lock's, from what the locks know."""
    for name, file in found.inputs.base.files.items():
        pinned = locked.inputs.base.files.get(name)
        if pinned is None or pinned.sha256 != file.sha256:
            return f"the base differs: {name} is another file than the lock was made from"
    if (reason := _drop_map_difference(locked.inputs.drop_map or {}, found.inputs.drop_map or {})) is not None:
        return reason
    changed = [each.path for each in differences(locked.weights(), found.weights())]
    if not any(name.endswith(".safetensors") for name in changed):
        return "all shards are equal; other files differ"
    if None in (locked.tensor_data, found.tensor_data):
        return "same base and same drop map; without digests of their tensors the layout or a fault may be the reason"
    if locked.tensor_data == found.tensor_data:
        return "same weights, other packaging (shard size or metadata)"
    names = _changed_tensors(locked, found)
    return (
        f"same base and same drop map, and yet other bytes in {counted(len(names), 'tensor')}: {some(names)}; "
        "a disk or memory fault, or a bug"
    )


def contradiction(locked: Lock, found: Lock) -> str | None:
    """What shows that a lock was damaged or edited, whatever the build is like; None if nothing does.

    A shard's header follows from its tensors, and so its bytes from their digests; its size and tensors follow from its bytes.
    """
    if locked.name != found.name:
        return f"it is the lock of {locked.name!r}"
    if locked.tensor_data is not None and tensor_data_of(locked.outputs) not in (None, locked.tensor_data):
        return "its digest of all tensors is not that of the tensors that it lists"
    if (name := _other_size(locked, found)) is not None:
        return f"it lists {name} with the right digest and yet with another size"
    before, here = locked.weights(), found.weights()
    if (impossible := _impossible_tensors(before, here)) is not None:
        return impossible
    if not differences(before, here) and locked.inputs.drop_map != found.inputs.drop_map:
        return "it lists the right weights and yet another drop map"
    return None


def _impossible_tensors(before: Mapping[str, LockedFile], here: Mapping[str, LockedFile]) -> str | None:
    for name, file in before.items():
        other = here.get(name)
        if other is None or file.tensors is None or other.tensors is None:
            continue
        if file.sha256 == other.sha256 and file.tensors != other.tensors:
            return f"it lists weights/{name} with the right digest and yet with other tensors"
        if file.sha256 != other.sha256 and (file.size, file.tensors) == (other.size, other.tensors):
            return f"it lists weights/{name} with the right size and tensors and yet with another digest"
    return None


def _other_size(locked: Lock, found: Lock) -> str | None:
    """A file that both locks give the same digest and not the same size."""
    for before, here in zip(_files(locked), _files(found), strict=True):
        for name, file in before.items():
            other = here.get(name)
            if other is not None and other.sha256 == file.sha256 and other.size != file.size:
                return name
    return None


def _files(lock: Lock) -> tuple[Mapping[str, LockedFile], ...]:
    base = {f"base file {name}": file for name, file in lock.inputs.base.files.items()}
    return base, lock.inputs.files, lock.outputs


def _drop_map_difference(locked: Mapping[str, list[int]], found: Mapping[str, list[int]]) -> str | None:
    layers = [layer for layer in {**locked, **found} if locked.get(layer) != found.get(layer)]
    if not layers:
        return None
    layer = layers[0]
    before, here = set(locked.get(layer, ())), set(found.get(layer, ()))
    words = {"drops": sorted(here - before), "keeps": sorted(before - here)}
    told = " and ".join(f"{verb} experts {ids}" for verb, ids in words.items() if ids)
    other = f"; it drops {len(here)} in that layer, the lock {len(before)}" if len(here) != len(before) else ""
    return f"the drop map differs in {counted(len(layers), 'layer')}: layer {layer} now {told}{other}"


def _changed_tensors(locked: Lock, found: Lock) -> list[str]:
    def tensors(lock: Lock) -> dict[str, Any]:
        return {name: entry for file in lock.weights().values() for name, entry in (file.tensors or {}).items()}

    before, here = tensors(locked), tensors(found)
    return sorted(name for name in {*before, *here} if before.get(name) != here.get(name))
