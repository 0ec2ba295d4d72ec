from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from pruner.errors import InputError
from release.gguf.reader import read_header
from release.gguf.summary import GgufSummary, TensorSummary, differing_tensors, fallbacks, summarize

Tensors = dict[str, np.ndarray]
Group = tuple[int, str, tuple[int, ...]]


def write(path: Path, tensors: dict[str, np.ndarray], *, name: str = "model") -> Path:
    writer = gguf.GGUFWriter(path, "gemma4")
    writer.add_name(name)
    writer.add_uint32("gemma4.expert_count", 4)
    writer.add_chat_template("{{ messages }}")
    for key, value in tensors.items():
        writer.add_tensor(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    return {"a.weight": np.arange(40, dtype=np.float32).reshape(5, 8), "b.weight": np.ones(9, dtype=np.float16)}


def test_summary_gives_sizes_types_digests_and_metadata(tmp_path: Path, tensors: Tensors, recorder: Any):
    path = write(tmp_path / "m.gguf", tensors)
    summary = summarize(path, recorder)
    assert summary.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert summary.file_size == path.stat().st_size
    assert summary.types == {"F16": 1, "F32": 1}
    assert summary.parameters == 49
    assert summary.bits_per_weight == pytest.approx(8 * (160 + 18) / 49)
    assert summary.metadata["gemma4.expert_count"] == 4
    assert summary.metadata["tokenizer.chat_template.sha256"] == hashlib.sha256(b"{{ messages }}").hexdigest()
    assert {each.name: each.sha256 for each in summary.tensors} == {
        name: hashlib.sha256(value.tobytes()).hexdigest() for name, value in tensors.items()
    }
    assert recorder.done == {"reading back m.gguf": path.stat().st_size}
    assert json.loads(json.dumps(summary.to_json()))["tensor_digest"] == summary.tensor_digest
    assert str(tmp_path) not in json.dumps(summary.to_json())


def test_the_tensor_digest_ignores_packaging_and_nothing_else(tmp_path: Path, tensors: Tensors):
    first = summarize(write(tmp_path / "first.gguf", tensors))
    again = summarize(write(tmp_path / "again.gguf", dict(reversed(tensors.items())), name="another name"))
    assert again.sha256 != first.sha256
    assert again.tensor_digest == first.tensor_digest
    changed = {
        "bytes": {**tensors, "b.weight": tensors["b.weight"] * 2},
        "name": {"a.weight": tensors["a.weight"], "c.weight": tensors["b.weight"]},
        "shape": {**tensors, "a.weight": tensors["a.weight"].reshape(10, 4)},
        "type": {**tensors, "a.weight": tensors["a.weight"].view(np.int32)},
    }
    digests = {summarize(write(tmp_path / f"{what}.gguf", value)).tensor_digest for what, value in changed.items()}
    assert len(digests) == 4
    assert first.tensor_digest not in digests


def test_overlapping_tensors_are_refused(tmp_path: Path, tensors: Tensors):
    path = write(tmp_path / "m.gguf", tensors)
    data = bytearray(path.read_bytes())
    place = data.index(b"b.weight") + len(b"b.weight") + 4 + 8 + 4
    data[place : place + 8] = bytes(8)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"tensors 'a\.weight' and 'b\.weight' overlap"):
        summarize(path)


def test_differing_tensors_sees_missing_new_and_reshaped(tmp_path: Path, tensors: Tensors):
    header = read_header(write(tmp_path / "m.gguf", tensors))
    other = {"a.weight": tensors["a.weight"].reshape(10, 4), "c.weight": tensors["b.weight"]}
    found = differing_tensors(header, read_header(write(tmp_path / "o.gguf", other)))
    assert sorted(tensor.name for tensor in found) == ["a.weight", "a.weight", "b.weight", "c.weight"]
    assert differing_tensors(header, header) == []


TWO = " because {} are not multiples of {}"


def make(*groups: Group) -> GgufSummary:
    """A summary with `count` tensors of a type and shape for each group."""
    tensors = [
        TensorSummary(f"t{len(shape)}.{kind}.{n}.{shape[0]}", kind, shape, 1, "")
        for count, kind, shape in groups
        for n in range(count)
    ]
    return GgufSummary("gemma4", "m", len(tensors), {}, 1, 1, 1.0, "", "", {}, tuple(tensors))


@pytest.mark.parametrize(
    ("groups", "quant_type", "expected"),
    [
        (
            [(201, "Q6_K", (2816, 8)), (30, "Q8_0", (704, 8, 128)), (30, "Q8_0", (2112, 8)), (300, "F32", (2816,))],
            "Q6_K",
            "Q6_K: 201 tensors Q6_K, 60 fell back to Q8_0 because 704 and 2112 are not multiples of 256",
        ),
        (
            [(20, "Q4_K", (256, 8)), (4, "Q6_K", (512, 8)), (3, "Q5_0", (96, 8)), (2, "Q8_0", (96, 8)), (1, "F16", (48, 8))],
            "q4_k_m",
            f"Q4_K_M: 20 tensors Q4_K, 4 Q6_K, 3 fell back to Q5_0, 2 to Q8_0 and 1 to F16{TWO.format('48 and 96', 256)}",
        ),
        (
            [(5, "IQ4_XS", (256, 8)), (1, "IQ4_NL", (96, 8))],
            "IQ4_XS",
            "IQ4_XS: 5 tensors IQ4_XS, 1 fell back to IQ4_NL because 96 is not a multiple of 256",
        ),
        ([(7, "Q8_0", (96, 8)), (2, "F32", (96, 8))], "Q8_0", "Q8_0: 7 tensors Q8_0"),
        (
            [(7, "Q8_0", (96, 8)), (1, "F16", (48, 8))],
            "Q8_0",
            "Q8_0: 7 tensors Q8_0, 1 fell back to F16 because 48 is not a multiple of 32",
        ),
        ([(7, "BF16", (96, 8)), (2, "F32", (96,))], "BF16", "BF16: 7 tensors BF16"),
        ([(2, "F32", (96,))], "Q6_K", "Q6_K: no tensor is quantized"),
    ],
)
def test_fallbacks_says_what_a_quant_really_holds(groups: list[Group], quant_type: str, expected: str):
    assert fallbacks(make(*groups), quant_type) == expected


def test_a_type_that_was_chosen_is_no_fallback():
    summary = make((3, "Q6_K", (256, 8)), (1, "Q8_0", (704, 8)))
    chosen = frozenset(tensor.name for tensor in summary.tensors if tensor.type == "Q8_0")
    assert fallbacks(replace(summary, chosen=chosen), "Q6_K") == "Q6_K: 3 tensors Q6_K, 1 Q8_0"
    assert "1 fell back to Q8_0" in fallbacks(summary, "Q6_K")
