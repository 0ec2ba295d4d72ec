"""Expert statistics: what the analysis measured, as one canonical safetensors file.  Reading needs numpy alone.

Shapes: Q questions, L MoE layers, E experts.  In memory every sum is float64.  In the file, counts are exact and every other
sum has a relative error of at most 2^-20; `pruner.packed_sums` says how, and why 196 questions x 30 layers x 128 experts stay
under 20 MB.  Statistics are a function from a question to its sums: measuring, reading, merging, ranking and writing go from
question to question, so that memory does not grow with their number.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pruner.errors import InputError, first_problem
from pruner.files import atomic_file, digest_of, sha256_file
from pruner.packed_sums import MOST_TOKENS, NAMES, Counts, Floats, Sums, layout, pack, unpack
from pruner.places import missing, require_possible
from pruner.safetensors_format import TensorInfo, build_header, data_order, read_header

__all__ = ["Counts", "ExpertStatistics", "Floats", "Header", "QuestionSums", "Scope", "Sums", "in_memory", "merge",
           "pins_digest", "read_statistics", "select", "statistics_bytes", "write_statistics"]  # fmt: skip

FORMAT: Literal["moe-release/expert-statistics/v2"] = "moe-release/expert-statistics/v2"
HEADER_KEY = "moe_release"
SCOPES: tuple[Scope, ...] = ("all", "answer")
NUMPY: dict[str, np.dtype[Any]] = {"U8": np.dtype("u1"), "U16": np.dtype("<u2"), "I16": np.dtype("<i2")}

Scope = Literal["all", "answer"]


class Header(BaseModel):
    """All that determined the numbers.  No path, date or host name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["moe-release/expert-statistics/v2"] = FORMAT
    base: str
    """Digest of the base's files."""
    model_type: str
    tokenizer: str
    """Digest of the tokenizer's files."""
    template: str
    """SHA-256 of the chat template."""
    template_date: str | None = None
    """The day that a chat template which asks for it was told; None: it does not ask."""
    reply_format: str
    """SHA-256 of the reply format."""
    dataset: str
    """SHA-256 of the calibration file."""
    dataset_size: int = Field(ge=1)
    """Questions in the calibration file, without those that were left out."""
    left_out: int = Field(default=0, ge=0)
    """Questions of the file that were left out, because their reasoning is empty."""
    unusable: int = Field(default=0, ge=0)
    """Questions of the file that were left out for another reason: see `pruner.calibration.Unusable`."""
    answer_alone: int = Field(default=0, ge=0)
    """Questions of the file whose reply is the answer alone, because their reasoning is empty."""
    questions: tuple[str, ...]
    """Digest of each measured question, in the order of the rows."""
    positions: tuple[int, ...]
    """Place of each measured question in the calibration file, ascending."""
    layers: tuple[int, ...]
    """Number of each MoE layer in the model."""
    experts: int = Field(ge=1)
    top_k: int = Field(ge=1)
    max_tokens: int = Field(ge=1, le=MOST_TOKENS)
    dtype: str
    attention: str
    device: str
    """Kind of device that the forward passes ran on, such as `cpu` or `cuda`."""
    libraries: dict[str, str]
    """Version of each library that had a part in the numbers."""

    def pins(self) -> dict[str, Any]:
        """Everything but the questions: what shards of one analysis have in common."""
        return self.model_dump(mode="json", exclude={"questions", "positions"})


@dataclass(frozen=True, eq=False)
class QuestionSums:
    """The sums [L, E] of one question."""

    all: Sums
    answer: Sums
    """Only tokens of the reply."""

    def scope(self, scope: Scope) -> Sums:
        """Sums over all tokens or over those of the reply."""
        return self.all if scope == "all" else self.answer


@dataclass(frozen=True, eq=False)
class ExpertStatistics:
    """The measurement of a whole calibration set, or of one shard of it."""

    header: Header
    tokens: Counts
    """[Q]: tokens of each question, after truncation."""
    answer_tokens: Counts
    """[Q]."""
    skipped: Counts
    """[Q, L]: tokens that were left out of a layer because something about them was not finite."""
    truncated: Counts
    """[Q]: 1 where the question was longer than `max_tokens`."""
    question: Callable[[int], QuestionSums]
    """The sums of the question of a row, read when they are asked for."""

    def __len__(self) -> int:
        return len(self.header.questions)

    def __iter__(self) -> Iterator[QuestionSums]:
        return (self.question(row) for row in range(len(self)))

    def sums(self, scope: Scope) -> Sums:
        """Sums [Q, L, E] of all questions at once: for looking at, since memory grows with the questions."""
        found = [each.scope(scope) for each in self]
        return Sums(**{name: np.stack([getattr(sums, name) for sums in found]) for name in NAMES})

    @property
    def complete(self) -> bool:
        """Whether every question of the calibration set was measured."""
        return len(self.header.positions) == self.header.dataset_size


NUMBERS = ("tokens", "answer_tokens", "skipped", "truncated")


def in_memory(header: Header, everything: Sums, answer: Sums, **numbers: Counts) -> ExpertStatistics:
    """Statistics whose sums [Q, L, E] are at hand."""

    def question(row: int) -> QuestionSums:
        return QuestionSums(*(Sums(**{name: getattr(sums, name)[row] for name in NAMES}) for sums in (everything, answer)))

    return ExpertStatistics(header, **numbers, question=question)


def statistics_bytes(statistics: ExpertStatistics) -> bytes:
    """The file's bytes: equal measurements give equal bytes."""
    file = io.BytesIO()
    _write(file, statistics)
    return file.getvalue()


def write_statistics(path: Path, statistics: ExpertStatistics) -> str:
    """Write the canonical file atomically, one question after the other.

    Returns:
        its SHA-256.
    """
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        _write(file, statistics)
    return sha256_file(path)


def _layout(header: Header) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and shape of every array of the file, in the order of their data."""
    questions, layers = len(header.questions), len(header.layers)
    arrays: dict[str, tuple[str, tuple[int, ...]]] = dict.fromkeys(("tokens", "answer_tokens"), ("U16", (questions,)))
    arrays |= {"skipped": ("U16", (questions, layers)), "truncated": ("U8", (questions,))}
    for name, (dtype, shape) in layout(layers, header.experts, header.max_tokens).items():
        arrays |= {f"{scope}.{name}": (dtype, (questions, *shape)) for scope in SCOPES}
    return {name: arrays[name] for name in data_order((name, dtype) for name, (dtype, _) in arrays.items())}


def _write(file: BinaryIO, statistics: ExpertStatistics) -> None:
    header = statistics.header
    text = json.dumps(header.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    arrays = _layout(header)
    # One metadata key: safetensors writes several in random order.
    position = file.write(build_header([(name, *array) for name, array in arrays.items()], {HEADER_KEY: text}))
    start = {}
    for name, (dtype, shape) in arrays.items():
        start[name] = position
        position += prod(shape) * NUMPY[dtype].itemsize
    for name in NUMBERS:
        file.seek(start[name])
        file.write(getattr(statistics, name).astype(NUMPY[arrays[name][0]]).tobytes())
    for row, sums in enumerate(statistics):
        for scope in SCOPES:
            for name, array in pack(sums.scope(scope), header.max_tokens).items():
                if array.shape != arrays[f"{scope}.{name}"][1][1:]:
                    raise ValueError(f"sums of shape {array.shape} are none of the header's")
                file.seek(start[f"{scope}.{name}"] + row * array.nbytes)
                file.write(array.astype(array.dtype.newbyteorder("<")).tobytes())


def read_statistics(path: Path) -> ExpertStatistics:
    """Open and check a statistics file; the sums of a question are read when they are asked for.

    Raises:
        InputError: it is missing, damaged, of another format, or its arrays do not fit its header.
    """
    require_possible(path)
    if not path.exists():
        raise InputError(f"{path}: {missing(path)}; `moe-release analyze` makes expert statistics")
    try:
        content = read_header(path)
    except InputError as error:
        remedy = "give an expert_statistics.safetensors of `analyze`, or measure them again"
        raise InputError(f"{path}: the expert statistics cannot be read: {error}; {remedy}") from None
    header = _checked_header(path, content.metadata.get(HEADER_KEY))
    found = {tensor.name: tensor for tensor in content.tensors}
    wanted = _layout(header)
    if lacking := sorted(set(wanted) - set(found)):
        raise InputError(f"{path}: the expert statistics lack the array {lacking[0]!r}; measure them again")
    if {name: (tensor.dtype, tensor.shape) for name, tensor in found.items()} != wanted or not _in_order(header):
        raise InputError(f"{path}: the arrays of the expert statistics do not fit their header; measure them again")
    with path.open("rb") as file:
        numbers = {name: _read(file, found[name]).astype(np.int64) for name in NUMBERS}
    return ExpertStatistics(header, **numbers, question=_reader(path, found, header.max_tokens))


def _reader(path: Path, found: dict[str, TensorInfo], max_tokens: int) -> Callable[[int], QuestionSums]:
    packed = [name for name in found if name not in NUMBERS]

    def sums(arrays: dict[str, NDArray[Any]], scope: Scope) -> Sums:
        result = unpack({name.removeprefix(f"{scope}."): arrays[name] for name in packed if name.startswith(f"{scope}.")})
        if result.count.max(initial=0) > max_tokens:
            raise InputError(f"{path}: the expert statistics count more tokens than {max_tokens}; measure them again")
        return result

    def question(row: int) -> QuestionSums:
        with path.open("rb") as file:
            arrays = {name: _read(file, found[name], row) for name in packed}
        return QuestionSums(sums(arrays, "all"), sums(arrays, "answer"))

    return question


def _read(file: BinaryIO, tensor: TensorInfo, row: int | None = None) -> NDArray[Any]:
    """An array of the file, or one row of it."""
    shape = tensor.shape if row is None else tensor.shape[1:]
    dtype = NUMPY[tensor.dtype]
    size = prod(shape) * dtype.itemsize
    file.seek(tensor.start + (row or 0) * size)
    return np.frombuffer(file.read(size), dtype).reshape(shape)


def _checked_header(path: Path, text: str | None) -> Header:
    if text is None:
        raise InputError(f"{path}: these are no expert statistics of moe-release: the header {HEADER_KEY!r} is missing")
    try:
        return Header.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"{path}: header of the expert statistics: {first_problem(error)}; measure them again") from None


def _in_order(header: Header) -> bool:
    positions = list(header.positions)
    inside = all(0 <= place < header.dataset_size for place in positions)
    return len(positions) == len(header.questions) and positions == sorted(set(positions)) and inside


def merge(parts: Sequence[ExpertStatistics]) -> ExpertStatistics:
    """Join the shards of one analysis; the result does not depend on how the questions were dealt out.

    Raises:
        InputError: the parts differ in anything but their questions, or a question stands in two of them.
    """
    if not parts:
        raise InputError("merge: no expert statistics were given")
    first = parts[0].header.pins()
    for number, part in enumerate(parts[1:], start=2):
        different = sorted(key for key, value in part.header.pins().items() if value != first[key])
        if different:
            raise InputError(f"merge: part {number} differs from part 1 in {', '.join(different)}; measure them alike")
    rows = sorted((part.header.positions[row], number, row) for number, part in enumerate(parts) for row in range(len(part)))
    if len({position for position, _, _ in rows}) != len(rows):
        raise InputError("merge: a question stands in two parts; give every shard once")
    header = parts[0].header.model_copy(
        update={
            "positions": tuple(position for position, _, _ in rows),
            "questions": tuple(parts[number].header.questions[row] for _, number, row in rows),
        }
    )

    def question(row: int) -> QuestionSums:
        _, number, place = rows[row]
        return parts[number].question(place)

    def joined(name: str) -> Any:
        return np.asarray([getattr(parts[number], name)[row] for _, number, row in rows])

    return ExpertStatistics(header, **{name: joined(name) for name in NUMBERS}, question=question)


def select(statistics: ExpertStatistics, rows: Sequence[int]) -> ExpertStatistics:
    """The statistics of some of the questions, by row, in ascending order."""
    chosen = sorted(set(rows))
    header = statistics.header.model_copy(
        update={name: tuple(getattr(statistics.header, name)[row] for row in chosen) for name in ("questions", "positions")}
    )
    numbers = {name: getattr(statistics, name)[chosen] for name in NUMBERS}
    return replace(statistics, header=header, **numbers, question=lambda row: statistics.question(chosen[row]))


def pins_digest(header: Header) -> str:
    """Digest of everything that determines a question's numbers but the question."""
    return digest_of(header.pins())
