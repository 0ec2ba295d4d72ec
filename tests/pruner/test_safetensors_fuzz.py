"""The header codec against the library, on headers that nobody wrote by hand."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from pruner.errors import InputError
from pruner.safetensors_format import Header, parse_header
from tests.conftest import FUZZ_TIMES

ARRAYS = {
    "b": np.arange(6, dtype=np.float16).reshape(2, 3),
    "a": np.arange(4, dtype=np.int8),
    "é": np.zeros((0, 3), np.float32),
    "scalar": np.ones((), np.float64),
}
FILE = save(ARRAYS, metadata={"format": "pt"})
LENGTH = int.from_bytes(FILE[:8], "little")
DATA = FILE[8 + LENGTH :]


def ours(data: bytes) -> Header | None:
    """The parsed header; None when it is refused with one line."""
    try:
        return parse_header(io.BytesIO(data), len(data), "x.safetensors")
    except InputError as error:
        said = str(error)
    assert "\n" not in said
    assert said.startswith("x.safetensors: ")
    return None


def librarys(data: bytes) -> dict[str, Any] | None:
    """Name → dtype, shape and bytes as the library reads them; None when it refuses the file."""
    try:
        return {name: (entry["dtype"], entry["shape"], bytes(entry["data"])) for name, entry in safetensors.deserialize(data)}
    except (safetensors.SafetensorError, OverflowError):
        return None


def require_agreement(data: bytes) -> None:
    """What both accept they read alike; what only the library accepts is refused in one line; nothing else is accepted."""
    found, theirs = ours(data), librarys(data)
    if found is None:
        return
    assert theirs is not None, "accepted here and refused by the library"
    assert {
        tensor.name: (tensor.dtype, list(tensor.shape), data[tensor.start : tensor.end]) for tensor in found.tensors
    } == theirs


def with_header(text: bytes, data: bytes = DATA) -> bytes:
    return len(text).to_bytes(8, "little") + text + data


def test_the_unchanged_file_is_read_alike() -> None:
    assert ours(FILE) is not None
    require_agreement(FILE)


@settings(max_examples=400 * FUZZ_TIMES)
@given(st.lists(st.tuples(st.integers(0, len(FILE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes(changes: list[tuple[int, int]]) -> None:
    data = bytearray(FILE)
    for place, value in changes:
        data[place] = value
    require_agreement(bytes(data))


@settings(max_examples=200 * FUZZ_TIMES)
@given(st.integers(0, len(FILE)), st.binary(max_size=24), st.integers(0, 24))
def test_inserted_and_lost_bytes(place: int, more: bytes, lost: int) -> None:
    require_agreement(FILE[:place] + more + FILE[place + lost :])


@settings(max_examples=200 * FUZZ_TIMES)
@given(st.binary(max_size=200))
@example(b"")
@example(b"\0" * 8)
@example(b"\xff" * 8)
def test_bytes_that_are_no_file(data: bytes) -> None:
    require_agreement(data)


NUMBERS = st.integers(-2, 20) | st.sampled_from([1 << 31, 1 << 62, 1 << 64, 1.5, True, None, "1"])
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F16", "I8", "F4", "BF16", "F8_E8M0", "X", 3, None]),
        "shape": st.lists(NUMBERS, max_size=3) | NUMBERS,
        "data_offsets": st.lists(NUMBERS, max_size=3) | NUMBERS,
        "more": NUMBERS,
    },
)


@settings(max_examples=400 * FUZZ_TIMES)
@given(st.dictionaries(st.sampled_from(["a", "b", "__metadata__", ""]), ENTRIES | NUMBERS, max_size=3), st.integers(0, 16))
def test_headers_of_any_content(content: dict[str, Any], size: int) -> None:
    require_agreement(with_header(json.dumps(content).encode(), bytes(size)))


ENTRY = '{"dtype":"I8","shape":[2],"data_offsets":[0,2]}'


@pytest.mark.parametrize(
    "text",
    [
        f'{{"a":{ENTRY}}}'.encode("utf-16"),
        f'{{"a":{ENTRY}}}'.encode("utf-8-sig"),
        f'{{"a":{ENTRY},"a":{ENTRY}}}'.encode(),
        f'{{"a":{ENTRY}}}{{}}'.encode(),
        f'{{"a":{ENTRY},"__metadata__":{{"x":NaN}}}}'.encode(),
        f'{{"\\ud800":{ENTRY}}}'.encode(),
        f'  {{"a":{ENTRY}}}'.encode(),
    ],
)
def test_json_that_two_parsers_may_read_differently(text: bytes) -> None:
    require_agreement(with_header(text, b"\1\2"))
