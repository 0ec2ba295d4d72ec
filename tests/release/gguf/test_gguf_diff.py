"""Two GGUFs held against each other: keys, tensors down to the expert, packaging; on disk, in parts, and on a Hub."""

from __future__ import annotations

import json
import random
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pruner.errors import InputError
from release.cli import app
from release.gguf.diff import GgufComparison, diff_ggufs
from release.gguf.located import locate
from release.gguf.reader import GgufHeader
from release.reports.gguf_comparison import gguf_comparison_text
from tests.release.gguf.moe_gguf import EXPERTS, Arrays, arrays_of, sliced, write_moe

NAMES = {"general.name": "base"}


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return arrays_of("gemma4", (0, 1, 2))


@pytest.fixture
def base(tmp_path: Path, arrays: Arrays) -> Path:
    return write_moe(tmp_path / "a.gguf", "gemma4", arrays, experts=EXPERTS, names=NAMES)


def compared(left: Path, right: Path, **options: Any) -> GgufComparison:
    return diff_ggufs(locate(left), locate(right), **options)


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def copy_of(base: Path) -> Path:
    return Path(shutil.copy(base, base.with_name("b.gguf")))


def offset_of(header: GgufHeader, name: str) -> tuple[int, int]:
    tensor = next(each for each in header.tensors if each.name == name)
    return tensor.offset, tensor.size


def test_equal_files_are_equal(base: Path) -> None:
    found = compared(base, copy_of(base))
    assert (found.verdict, found.same_weights, found.equal_bytes) == ("equal bytes", True, True)
    assert (found.keys, found.differences, found.packaging) == ((), (), ())
    assert found.tensors == len(locate(base).header.tensors)


def test_every_flipped_bit_is_found(base: Path) -> None:
    """Anywhere in the file: what the reader refuses is told by it, everything else by the comparison."""
    size = base.stat().st_size
    header = locate(base).header
    places = random.Random(0).sample(range(header.data_offset, size), 150)
    ends = [entry.end - 1 for entry in header.entries.values()]
    for place in [*places, *ends, header.data_offset - 1, size - 1]:
        other = copy_of(base)
        flip(other, place)
        with suppress(InputError):  # of a header that is none any more
            assert not compared(base, other).equal_bytes, place


@pytest.mark.parametrize("workers", [1, 3])
def test_the_expert_is_named(base: Path, workers: int) -> None:
    other = copy_of(base)
    offset, size = offset_of(locate(base).header, "blk.1.ffn_down_exps.weight")
    flip(other, offset + size // EXPERTS * 5 + 3)
    found = compared(base, other, workers=workers)
    (difference,) = found.differences
    assert (difference.name, difference.layer, dict(difference.experts)) == ("blk.1.ffn_down_exps.weight", "1", {5: 1})
    assert difference.found is not None
    assert (difference.found.differing, difference.found.first) == (1, size // EXPERTS * 5 + 3)
    assert difference.found.largest is None, "a byte of a quantized block is no value"
    many = sum(tensor.type.quantized for tensor in locate(base).header.tensors)
    reasons = "a damaged copy, or weights that were changed there"
    assert found.verdict == f"other bytes in 1 of {many} quantized tensors, all others are equal: {reasons}"


def test_another_quantizer_is_told_from_damage(tmp_path: Path, arrays: Arrays, base: Path) -> None:
    changed = {
        name: (value if kind is None else np.bitwise_xor(value, np.uint8(1)), kind) for name, (value, kind) in arrays.items()
    }
    found = compared(base, write_moe(tmp_path / "b.gguf", "gemma4", changed, experts=EXPERTS, names=NAMES))
    assert found.verdict.endswith("all others are equal: another imatrix, another llama.cpp, or other weights")


def test_values_of_numbers_are_subtracted(tmp_path: Path, arrays: Arrays, base: Path) -> None:
    changed = dict(arrays)
    value, kind = changed["blk.0.ffn_gate_inp.weight"]
    other = value.copy()
    other[2, 0] += 0.5
    changed["blk.0.ffn_gate_inp.weight"] = (other, kind)
    found = compared(base, write_moe(tmp_path / "b.gguf", "gemma4", changed, experts=EXPERTS, names=NAMES))
    (difference,) = found.differences
    assert list(difference.experts) == [2]
    assert difference.found is not None
    assert difference.found.largest == pytest.approx(0.5)
    assert found.verdict == "other weights: 1 tensor with a difference"


def test_other_metadata_is_told_key_by_key(tmp_path: Path, arrays: Arrays, base: Path) -> None:
    other = write_moe(
        tmp_path / "b.gguf", "gemma4", arrays, experts=EXPERTS, names={"general.name": "other", "general.author": "x" * 100}
    )
    found = compared(base, other)
    assert found.same_weights
    assert found.verdict == "same weights, other metadata: 2 keys"
    assert [(each.key, each.a, each.b) for each in found.keys] == [
        ("general.name", "'base'", "'other'"),
        ("general.author", None, f"'{'x' * 59}… (100 letters)"),
    ]


def test_no_key_makes_a_line_of_its_own(tmp_path: Path, arrays: Arrays, base: Path) -> None:
    names = {**NAMES, "general.x\nequal bytes\x1b[2J": "y"}
    other = write_moe(tmp_path / "b.gguf", "gemma4", arrays, experts=EXPERTS, names=names)
    text = gguf_comparison_text(compared(base, other))
    assert "general.x\\nequal bytes\\x1b[2J: not in A, 'y' in B" in text


def test_names_of_tensors_make_no_lines_either(tmp_path: Path, arrays: Arrays) -> None:
    sides = []
    for side, value in (("a", 0.0), ("b", 1.0)):
        odd = {**arrays, "t\nequal bytes\u202e:smile:": (np.full(32, value, np.float32), None)}
        sides.append(write_moe(tmp_path / f"{side}.gguf", "gemma4", odd, experts=EXPERTS, names=NAMES))
    text = gguf_comparison_text(compared(*sides))
    assert "t\\nequal bytes\\u202e:smile:" in text


def test_tensors_that_overlap_are_refused(base: Path) -> None:
    header, data = locate(base).header, bytearray(base.read_bytes())
    name = header.tensors[1].name.encode()
    place = data.index(len(name).to_bytes(8, "little") + name) + 8 + len(name) + 4 + 8 * len(header.tensors[1].shape) + 4
    data[place : place + 8] = bytes(8)
    base.write_bytes(data)
    with pytest.raises(InputError, match=f"tensors '{header.tensors[0].name}' and '{header.tensors[1].name}' overlap"):
        locate(base)


def test_a_gguf_and_a_folder_are_not_of_a_kind(base: Path, tmp_path: Path) -> None:
    for words, message in (((base, tmp_path), "A is a GGUF and B is none"), ((tmp_path, base), "B is a GGUF and A is none")):
        result = CliRunner().invoke(app, ["diff", *map(str, words)])
        assert isinstance(result.exception, InputError)
        assert f"diff: {message}; give two of a kind" in str(result.exception)


def test_a_long_array_that_differs_at_its_end_is_found(tmp_path: Path, arrays: Arrays, base: Path) -> None:
    other = copy_of(base)
    entry = locate(base).header.entries["tokenizer.ggml.tokens"]
    flip(other, entry.end - 1)
    (key,) = compared(base, other).keys
    assert (key.key, key.a) == ("tokenizer.ggml.tokens", "5,000 elements of str, with other content")


def test_the_same_tensors_in_another_order_are_packaging(tmp_path: Path, arrays: Arrays, base: Path) -> None:
    other = write_moe(tmp_path / "b.gguf", "gemma4", dict(reversed(arrays.items())), experts=EXPERTS, names=NAMES)
    found = compared(base, other)
    assert (found.verdict, found.same_weights, found.equal_bytes) == (
        "same weights and metadata, other packaging",
        True,
        False,
    )
    assert found.packaging == ("tensors in another order",)


def test_bytes_that_nobody_reads_are_no_other_weights(tmp_path: Path) -> None:
    arrays = arrays_of("gemma4", (0,))
    arrays["odd.weight"] = (np.ones(3, np.float32), None)
    base = write_moe(tmp_path / "a.gguf", "gemma4", arrays, experts=EXPERTS, names=NAMES, blocks=1)
    other = copy_of(base)
    offset, size = offset_of(locate(base).header, "odd.weight")
    flip(other, offset + size)
    assert compared(base, other).packaging == ("other bytes around tensors, which nobody reads",)


def test_a_byte_more_is_no_equal_file(base: Path) -> None:
    other = copy_of(base)
    with other.open("ab") as file:
        file.write(b"x")
    found = compared(base, other)
    assert (found.verdict, found.same_weights, found.equal_bytes) == (
        "same weights and metadata, other packaging",
        True,
        False,
    )
    assert found.packaging == ("tensors at other places of the file, or more bytes around them",)


def test_tensors_that_all_lie_further_behind_are_packaging(base: Path) -> None:
    """Offsets count from the beginning of the data: 32 more before each, and the file holds them."""
    header, other = locate(base).header, copy_of(base)
    data = bytearray(base.read_bytes())
    for tensor in header.tensors:
        name = tensor.name.encode()
        place = data.index(len(name).to_bytes(8, "little") + name) + 8 + len(name) + 4 + 8 * len(tensor.shape) + 4
        data[place : place + 8] = (tensor.offset - header.data_offset + 32).to_bytes(8, "little")
    other.write_bytes(data[: header.data_offset] + b"hidden".ljust(32, b"!") + data[header.data_offset :])
    assert compared(base, other).packaging == ("tensors at other places of the file, or more bytes around them",)


def test_keys_of_a_split_are_told(tmp_path: Path, arrays: Arrays) -> None:
    sides = [
        write_moe(tmp_path / f"{name}.gguf", "gemma4", arrays, experts=EXPERTS, names=NAMES | extra)
        for name, extra in (("a", {}), ("b", {"split.count": "none"}))
    ]
    found = compared(*sides)
    assert found.keys == ()
    assert not found.equal_bytes
    assert len(found.packaging) == 1
    assert "keys of a split" in found.packaging[0]


def test_parts_and_the_whole_are_other_packaging(tmp_path: Path, arrays: Arrays, base: Path) -> None:
    write_moe(tmp_path / "s.gguf", "gemma4", arrays, experts=EXPERTS, names=NAMES, split_max_tensors=7, small_first_shard=False)
    parts = sorted(tmp_path.glob("s-*.gguf"))
    assert len(parts) > 1
    found = compared(base, parts[0])
    assert found.same_weights
    assert found.packaging == (f"in 1 file in A, in {len(parts)} files in B",)
    offset, _ = offset_of(locate(parts[0]).parts[1].header, locate(parts[0]).parts[1].header.tensors[0].name)
    flip(parts[1], offset)
    assert [each.name for each in compared(base, parts[0]).differences] == [locate(parts[0]).parts[1].header.tensors[0].name]


def test_a_cut_is_recognized_by_its_experts(tmp_path: Path, arrays: Arrays, base: Path) -> None:
    keep = dict.fromkeys(range(3), (0, 2, 3, 7))
    cut = write_moe(tmp_path / "b.gguf", "gemma4", sliced(arrays, keep), experts=4, names=NAMES)
    told = "`moe-release prove B --base A` tells whether B is a cut of A"
    assert compared(base, cut).verdict == f"{EXPERTS} in A and 4 in B experts: {told}"
    assert {each.kind for each in compared(base, cut).differences} == {"shape"}


def test_other_types_and_other_models_are_told_apart(tmp_path: Path, arrays: Arrays, base: Path) -> None:
    changed = dict(arrays)
    value, _ = changed["blk.0.ffn_gate_inp.weight"]
    changed["blk.0.ffn_gate_inp.weight"] = (value.astype(np.float16), None)
    found = compared(base, write_moe(tmp_path / "b.gguf", "gemma4", changed, experts=EXPERTS, names=NAMES))
    assert found.verdict == "quantized otherwise: 1 tensor of other types"
    assert found.differences[0].dtypes == ("F32", "F16")
    qwen = write_moe(tmp_path / "q.gguf", "qwen3moe", arrays_of("qwen3moe", (0,)), experts=EXPERTS, names=NAMES, blocks=1)
    assert compared(base, qwen).verdict == "different models: 'gemma4' and 'qwen3moe'"
    renamed = {f"{name}.x": array for name, array in arrays.items()}
    other = write_moe(tmp_path / "r.gguf", "gemma4", renamed, experts=EXPERTS, names=NAMES)
    assert compared(base, other).verdict == "different models: no tensor has the same name"


def test_the_command_says_it_and_exits_with_1(base: Path) -> None:
    other = copy_of(base)

    def said(code: int, *words: str) -> str:
        result = CliRunner().invoke(app, ["diff", str(base), str(other), *words])
        assert result.exit_code == code
        return result.stdout

    assert said(0).splitlines()[:3] == ["A a.gguf", "B b.gguf", "equal bytes"]
    offset, size = offset_of(locate(base).header, "blk.2.ffn_gate_up_exps.weight")
    flip(other, offset + size - 1)
    lines = said(1).splitlines()
    assert lines[2].startswith("other bytes in 1 of ")
    assert lines[-1].split() == [
        "blk.2.ffn_gate_up_exps.weight", "2", str(EXPERTS - 1), "1", "of", f"{size:,},", "first", "at", f"{size - 1:,}"
    ]  # fmt: skip
    assert json.loads(said(1, "--json"))["differences"][0]["experts"] == {str(EXPERTS - 1): 1}
