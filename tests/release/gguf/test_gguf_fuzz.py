"""Generated GGUF headers, well formed and not: one line or a usable header, and memory bounded by the file's size."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruner.drop_map import DropMap
from pruner.errors import InputError
from release.gguf import reader
from release.gguf.cut_plan import plan_cut, read_parts
from release.gguf.located import locate
from release.gguf.reader import read_header
from tests.conftest import FUZZ_TIMES
from tests.release.gguf.moe_gguf import DROP, base_and_variant

FUZZ = settings(max_examples=200 * FUZZ_TIMES)
NUMBERS = st.one_of(
    st.integers(0, 9),
    st.sampled_from([255, 4096, 4097, 1 << 16, 1 << 20, 1 << 24, 1 << 31, 1 << 32, (1 << 63) - 1, (1 << 64) - 1]),
)
WORDS = st.one_of(
    st.sampled_from(
        [
            "general.architecture",
            "general.alignment",
            "general.type",
            "gemma4.expert_count",
            "gemma4.block_count",
            "split.count",
        ]
    ),
    st.text(max_size=12),
)


def packed(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data


@st.composite
def entries(draw: st.DrawFn) -> bytes:
    kind = draw(st.integers(0, 14))
    start = packed(draw(WORDS)) + struct.pack("<I", kind)
    if kind == 8:
        return start + draw(st.one_of(st.just(packed("gemma4")), st.binary(max_size=20)))
    if kind == 9:
        return start + struct.pack("<IQ", draw(st.integers(0, 13)), draw(NUMBERS)) + draw(st.binary(max_size=64))
    return start + draw(st.binary(min_size=1, max_size=8))


@st.composite
def tensors(draw: st.DrawFn) -> bytes:
    name = draw(
        st.one_of(st.sampled_from(["blk.0.ffn_gate_inp.weight", "blk.0.ffn_up_exps.weight", "token_embd.weight"]), WORDS)
    )
    shape = draw(st.lists(NUMBERS, max_size=5))
    kind, offset = draw(st.integers(0, 45)), draw(NUMBERS)
    return packed(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    keys, shapes = draw(st.lists(entries(), max_size=6)), draw(st.lists(tensors(), max_size=6))
    counts = [draw(st.one_of(st.just(len(each)), NUMBERS)) for each in (shapes, keys)]
    data = b"GGUF" + struct.pack("<IQQ", draw(st.sampled_from([2, 3])), *counts) + b"".join([*keys, *shapes])
    return data + draw(st.binary(max_size=200))


def plan_or_line(path: Path) -> str:
    """The line that reading, or planning a cut, gives; empty when both work."""
    try:
        read_header(path)
        base = locate(path)
        plan = plan_cut(base, DropMap(DROP), name="cut", where="map.json")
        assert sum(map(len, read_parts(plan.parts, base.source))) == plan.size
    except InputError as error:
        return str(error)
    return ""


@FUZZ
@given(data=files())
def test_generated_headers_are_read_or_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "fuzz.gguf"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        line = plan_or_line(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "\n" not in line
    assert line
    assert peak < 8 << 20


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base, _ = base_and_variant(tmp_path_factory.mktemp("sound"), "deepseek2", tokens=3)
    return base


@FUZZ
@given(
    places=st.lists(st.tuples(st.integers(min_value=0), st.integers(0, 255)), min_size=1, max_size=4), cut=st.integers(0, 2500)
)
def test_a_damaged_base_is_refused_in_one_line_or_cut(
    tmp_path: Path, sound: Path, places: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(sound.read_bytes())
    if cut % 5 == 0:
        del data[len(data) - cut :]
    for place, value in places:
        data[place % 2500] = value  # the header
    path = tmp_path / "damaged.gguf"
    path.write_bytes(data)
    assert "\n" not in plan_or_line(path)


MANY = {
    "small values": struct.pack("<IIQ", 9, 2, 4096) + bytes(range(256)) * 32,
    "empty strings": struct.pack("<IIQ", 9, 8, 4000) + bytes(32_000),
    "long strings": struct.pack("<IQ", 8, 1 << 18) + b"\xff" * (1 << 18),
}


@pytest.mark.parametrize("case", MANY)
def test_a_header_that_multiplies_in_memory_is_refused_with_bounded_memory(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kept value takes far more memory than its byte in the file; together they may not take what the machine has."""
    monkeypatch.setattr(reader, "MAXIMUM_KEPT", 2 << 20)
    count = (8 << 20) // len(MANY[case])
    path = tmp_path / "many.gguf"
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 0, count))
        for number in range(count):
            file.write(packed(f"key.{number}") + MANY[case])
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="more than 2 MiB of names and values"):
            read_header(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * reader.MAXIMUM_KEPT


def test_no_more_tensors_than_any_model_has(tmp_path: Path) -> None:
    path = tmp_path / "tensors.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, (1 << 16) + 1, 0))
    with pytest.raises(InputError, match="tensor count is 65,537"):
        read_header(path)
