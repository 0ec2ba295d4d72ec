from __future__ import annotations

import itertools
import struct
import sys
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruner.errors import InputError
from release.gguf import reader
from release.gguf.reader import GgufArray, read_header, read_strings
from release.gguf.types import BY_NAME, BY_NUMBER
from tests.conftest import FUZZ_TIMES


def write_sample(path: Path, *, tokens: int = 3) -> Path:
    """A small GGUF written by the gguf package, which knows nothing of our reader."""
    writer = gguf.GGUFWriter(path, "gemma4")
    writer.add_name("sample")
    writer.add_uint32("gemma4.expert_count", 16)
    writer.add_float32("gemma4.scale", 0.5)
    writer.add_bool("gemma4.flag", val=True)
    writer.add_array("gemma4.heads", [2, 2, 1])
    writer.add_token_list([f"token{index}" for index in range(tokens)])
    writer.add_tensor("token_embd.weight", np.arange(64, dtype=np.float32).reshape(2, 32))
    writer.add_tensor(
        "blk.0.ffn_down_exps.weight", np.ones((2, 3, 34), dtype=np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_0
    )
    writer.add_tensor("output_norm.weight", np.ones(5, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    return write_sample(tmp_path / "sample.gguf")


def raw(*parts: bytes, version: int = 3, tensors: int = 0, entries: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries) + b"".join(parts)


def word(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return word(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def test_reads_what_the_gguf_package_writes(sample: Path):
    header = read_header(sample)
    assert header.architecture == "gemma4"
    assert header.value("general.name") == "sample"
    assert header.model_value("expert_count") == 16
    assert header.model_value("scale") == 0.5
    assert header.model_value("flag") is True
    heads = header.entries["gemma4.heads"].value
    assert isinstance(heads, GgufArray)
    assert heads.values == (2, 2, 1)
    assert header.value("gemma4.heads") is None
    shapes = {tensor.name: (tensor.type.name, tensor.shape, tensor.size) for tensor in header.tensors}
    assert shapes == {
        "token_embd.weight": ("F32", (32, 2), 256),
        "blk.0.ffn_down_exps.weight": ("Q8_0", (32, 3, 2), 204),
        "output_norm.weight": ("F16", (5,), 10),
    }
    data = sample.read_bytes()
    first = header.tensors[0]
    assert data[first.offset : first.offset + first.size] == np.arange(64, dtype=np.float32).tobytes()


def test_entries_cover_the_key_value_section_without_gaps(sample: Path):
    entries = list(read_header(sample).entries.values())
    assert entries[0].start == 24
    assert all(left.end == right.start for left, right in itertools.pairwise(entries))


@pytest.mark.parametrize("tokens", [3, 5000])
def test_long_arrays_stay_in_the_file_and_can_be_fetched(tmp_path: Path, tokens: int):
    header = read_header(write_sample(tmp_path / "long.gguf", tokens=tokens))
    array = header.entries["tokenizer.ggml.tokens"].value
    assert isinstance(array, GgufArray)
    assert (array.values is None) == (tokens == 5000)
    assert read_strings(header, "tokenizer.ggml.tokens") == [f"token{index}" for index in range(tokens)]
    assert read_strings(header, "gemma4.heads") == []


@pytest.mark.parametrize("window", [8, 9, 40, 100, 1 << 20])
def test_windows_change_nothing_but_the_number_of_reads(tmp_path: Path, window: int, monkeypatch: pytest.MonkeyPatch):
    path = write_sample(tmp_path / "long.gguf", tokens=5000)
    whole = read_header(path)
    monkeypatch.setattr(reader, "WINDOW", window)
    assert read_header(path) == whole
    assert read_strings(whole, "tokenizer.ggml.tokens") == [f"token{index}" for index in range(5000)]


@pytest.mark.parametrize("window", [8, 100, 1 << 20])
@pytest.mark.parametrize("length", [1 << 10, 1 << 31, 1 << 62, (1 << 64) - 1])
def test_a_string_of_a_long_array_that_leads_out_of_the_file_is_refused(
    tmp_path: Path, window: int, length: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reader, "WINDOW", window)
    before = raw(word("tokens"), struct.pack("<IIQ", 9, 8, 5000), word("a") * 3000, entries=1)
    (tmp_path / "x.gguf").write_bytes(before + struct.pack("<Q", length) + bytes(500))
    with pytest.raises(InputError, match=rf"tokens needs {length:,} bytes, .* \(byte {len(before) + 8:,} of "):
        read_header(tmp_path / "x.gguf")
    (tmp_path / "x.gguf").write_bytes(before + bytes(7))
    with pytest.raises(InputError, match=rf"tokens needs 8 bytes, .* \(byte {len(before):,} of "):
        read_header(tmp_path / "x.gguf")


def test_a_vocabulary_is_read_in_few_steps(tmp_path: Path):
    """Of each token nothing but its length is looked at: a call of ours for each would take a second for a large model."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    path = write_sample(tmp_path / "long.gguf", tokens=50_000)
    sys.setprofile(count)
    try:
        read_header(path)
    finally:
        sys.setprofile(None)
    assert calls < 2000


@pytest.mark.llama
def test_agrees_with_the_gguf_package_on_a_converted_model(model: Path):
    header = read_header(model)
    reference = gguf.GGUFReader(model)
    ours = [(each.name, each.type.number, each.shape, each.offset, each.size) for each in header.tensors]
    theirs = [
        (each.name, int(each.tensor_type), tuple(int(size) for size in each.shape), int(each.data_offset), int(each.n_bytes))
        for each in reference.tensors
    ]
    assert ours == theirs
    assert header.data_offset == reference.data_offset
    assert set(header.entries) == {name for name in reference.fields if not name.startswith("GGUF.")}


def test_the_type_table_agrees_with_the_gguf_package():
    for kind, (block_size, block_bytes) in gguf.GGML_QUANT_SIZES.items():
        ours = BY_NUMBER[int(kind)]
        assert ours.name == kind.name
        if kind.name != "Q8_1":  # an intermediate type that no file holds; the package on PyPI still has its former layout
            assert (ours.block_size, ours.block_bytes) == (block_size, block_bytes)
    assert len(BY_NAME) == len(BY_NUMBER)


def test_a_file_cut_at_any_byte_is_refused_in_one_line(sample: Path, tmp_path: Path):
    data = sample.read_bytes()
    last = read_header(sample).tensors[-1]
    cut = tmp_path / "cut.gguf"
    for length in range(last.offset + last.size):
        cut.write_bytes(data[:length])
        with pytest.raises(InputError) as caught:
            read_header(cut)
        assert str(caught.value).startswith(f"{cut}: ")
        assert "\n" not in str(caught.value)


@settings(max_examples=300 * FUZZ_TIMES)
@given(place=st.integers(min_value=0), value=st.integers(0, 255), more=st.binary(max_size=16))
def test_damage_anywhere_is_an_input_error_or_harmless(sample: Path, tmp_path: Path, place: int, value: int, more: bytes):
    data = bytearray(sample.read_bytes())
    place %= len(data)
    data[place : place + 1 + len(more)] = bytes([value]) + more
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(data)
    message = ""
    try:
        read_header(damaged)
    except InputError as error:
        message = str(error)
    assert "\n" not in message


HUGE = 1 << 60
HOSTILE = {
    "empty": (b"", "empty"),
    "text": (b"{}\n not a model", "not a GGUF file"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "version 1": (raw(version=1), "version 1"),
    "tensors without end": (raw(tensors=HUGE), "tensor count is"),
    "keys without end": (raw(entries=HUGE), "key count is"),
    "a key without end": (raw(struct.pack("<Q", HUGE), entries=1), "key claims"),
    "a string without end": (raw(word("k"), struct.pack("<IQ", 8, HUGE), entries=1), "k claims"),
    "an array without end": (raw(word("k"), struct.pack("<IIQ", 9, 4, HUGE), entries=1), "length of k is"),
    "an array longer than the file": (raw(word("k"), struct.pack("<IIQ", 9, 4, 1 << 20), entries=1), "truncated or damaged"),
    "strings longer than the file": (raw(word("k"), struct.pack("<IIQ", 9, 8, 1 << 24), entries=1), "truncated or damaged"),
    "an array of arrays": (raw(word("k"), struct.pack("<IIQ", 9, 9, 1), entries=1), "unsupported type 9"),
    "an unknown value type": (raw(word("k"), struct.pack("<I", 99), entries=1), "unknown value type 99"),
    "a key twice": (raw(*2 * (word("k"), struct.pack("<II", 4, 1)), entries=2), "'k' appears twice"),
    "a key that is no text": (raw(struct.pack("<Q", 1) + b"\xff", entries=1), "not UTF-8"),
    "an odd alignment": (raw(word("general.alignment"), struct.pack("<II", 4, 3), entries=1), "not a power of two"),
    "many dimensions": (raw(tensor("t", (1,) * 9), tensors=1), "9 dimensions"),
    "no elements": (raw(tensor("t", (0,)), bytes(64), tensors=1), "has the shape"),
    "more elements than numbers": (raw(tensor("t", (1 << 40, 1 << 40)), bytes(64), tensors=1), "has the shape"),
    "a broken block": (raw(tensor("t", (100,), kind=14), bytes(999), tensors=1), "type Q6_K has the shape [100]"),
    "an unknown ggml type": (raw(tensor("t", (4,), kind=77), bytes(64), tensors=1), "ggml type 77"),
    "a crooked offset": (raw(tensor("t", (4,), offset=7), bytes(64), tensors=1), "not aligned"),
    "a tensor past the end": (raw(tensor("t", (4,), offset=1 << 40), bytes(64), tensors=1), "truncated GGUF: tensor 't'"),
    "a tensor twice": (raw(*2 * (tensor("t", (1,)),), bytes(64), tensors=2), "same name"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_is_refused_in_one_line_and_little_memory(tmp_path: Path, case: str):
    data, expected = HOSTILE[case]
    path = tmp_path / "hostile.gguf"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            read_header(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert peak < 1 << 20


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"none\.gguf: GGUF cannot be read: No such file"):
        read_header(tmp_path / "none.gguf")
    with pytest.raises(InputError, match="Is a directory"):
        read_header(tmp_path)
