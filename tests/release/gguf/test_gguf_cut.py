"""Cut GGUFs against convert and quantize of the pruned checkpoint, byte by byte, with the real llama.cpp."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import pytest

from pruner.drop_map import DropMap
from pruner.errors import CheckFailedError, InputError
from pruner.files import canonical_json, sha256_file
from release.gguf.cut import cut
from release.gguf.cut_plan import plan_cut
from release.gguf.cut_proof import REMAKE, infer_drop_map, prove_cut
from release.gguf.direct_cut import cut_directly
from release.gguf.imatrix import require_fits
from release.gguf.located import locate
from release.gguf.quantize import quantize
from release.gguf.reader import read_header
from release.gguf.toolchain import Toolchain
from tests.release.gguf.moe import converted, drop_some, gemma4_checkpoint, pruned

pytestmark = [pytest.mark.llama, pytest.mark.torch]

K_QUANTS = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K")
BASE_NAME, NAME = "gemma-4-26B-A4B-it", "tiny-A4B-6e-v3"


@dataclass(frozen=True)
class Pair:
    """A base and its variant, both converted from their checkpoints."""

    toolchain: Toolchain
    folder: Path
    drop_map: DropMap
    name: str

    def quant(self, model: str, quant_type: str) -> Path:
        target = self.folder / f"{model}-{quant_type}.gguf"
        if not target.exists():
            source = self.folder / f"{model}.gguf"
            quantize(self.toolchain, source, target, quant_type=quant_type, threads=2, log=self.folder / "log")
        return target


def make_pair(
    toolchain: Toolchain, folder: Path, tiny_model: Path, *, experts: int, kept: int, width: int, layers: int, name: str = NAME
) -> Pair:
    base = gemma4_checkpoint(folder / "base", tiny_model, experts=experts, width=width, layers=layers)
    drop_map = drop_some(layers, experts, kept)
    variant = pruned(base, drop_map, folder / "variant")
    converted(toolchain, base, folder / "base.gguf", BASE_NAME)
    converted(toolchain, variant, folder / "variant.gguf", name)
    for made in (base, variant):
        shutil.rmtree(made)
    return Pair(toolchain, folder, drop_map, name)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory, toolchain: Toolchain, tiny_model: Path) -> Pair:
    """Experts with rows of 256; the dense MLP's rows of 96 fall back to types with smaller blocks."""
    return make_pair(toolchain, tmp_path_factory.mktemp("pair"), tiny_model, experts=10, kept=6, width=256, layers=8)


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory, toolchain: Toolchain, tiny_model: Path) -> Pair:
    """Experts whose down projections have rows of 96, which fall back."""
    folder = tmp_path_factory.mktemp("narrow")
    return make_pair(toolchain, folder, tiny_model, experts=10, kept=4, width=96, layers=4, name="narrow")


@pytest.fixture(scope="session")
def eight(tmp_path_factory: pytest.TempPathFactory, toolchain: Toolchain, tiny_model: Path) -> Pair:
    """A base of eight experts, which llama-quantize treats apart."""
    folder = tmp_path_factory.mktemp("eight")
    return make_pair(toolchain, folder, tiny_model, experts=8, kept=6, width=32, layers=4, name="eight")


def require_equal(pair: Pair, quant_type: str, out: Path) -> None:
    base = locate(pair.quant("base", quant_type))
    plan = plan_cut(base, pair.drop_map, name=pair.name, where="map")
    result = cut(base, plan, out)
    expected = pair.quant("variant", quant_type)
    assert out.read_bytes() == expected.read_bytes()
    assert [(file.size, file.sha256) for file in result.files] == [(expected.stat().st_size, sha256_file(expected))]
    assert plan.file_type == quant_type
    assert plan.other_types is None
    assert plan.imatrix == {}
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize("quant_type", [*K_QUANTS, "IQ4_XS", "Q8_0", "BF16"])
def test_a_cut_equals_convert_and_quantize_of_the_pruned_checkpoint(pair: Pair, tmp_path: Path, quant_type: str) -> None:
    require_equal(pair, quant_type, tmp_path / "cut.gguf")
    types = {each.name: each.type.name for each in read_header(tmp_path / "cut.gguf").tensors}
    assert types["blk.3.ffn_gate_inp.weight"] == "F32"
    if quant_type in K_QUANTS:  # both kinds of rows are in this model
        assert {types["blk.0.ffn_gate_up_exps.weight"][:2], types["blk.0.ffn_down_exps.weight"][-2:]} == {quant_type[:2], "_K"}
        assert types["blk.0.ffn_down.weight"] in ("Q4_0", "Q5_0", "Q5_1", "Q8_0")


@pytest.mark.parametrize("quant_type", [*K_QUANTS, "IQ4_XS", "Q8_0", "BF16"])
def test_a_cut_equals_it_where_experts_fall_back(narrow: Pair, tmp_path: Path, quant_type: str) -> None:
    require_equal(narrow, quant_type, tmp_path / "cut.gguf")
    down = next(each for each in read_header(tmp_path / "cut.gguf").tensors if each.name == "blk.1.ffn_down_exps.weight")
    assert down.shape == (96, 256, 4)
    assert not down.type.name.endswith("_K")


def test_the_converters_own_bf16_file_can_be_cut_too(narrow: Pair, tmp_path: Path) -> None:
    base = locate(narrow.folder / "base.gguf")
    cut(base, plan_cut(base, narrow.drop_map, name=narrow.name, where="map"), tmp_path / "cut.gguf")
    assert (tmp_path / "cut.gguf").read_bytes() == (narrow.folder / "variant.gguf").read_bytes()


def test_a_cut_model_answers(pair: Pair, tmp_path: Path) -> None:
    """llama.cpp loads it: llama-imatrix runs the whole model over a text."""
    base = locate(pair.quant("base", "Q8_0"))
    cut(base, plan_cut(base, pair.drop_map, name=pair.name, where="map"), tmp_path / "cut.gguf")
    (tmp_path / "text").write_text("word " * 400)
    tool = pair.toolchain.binary("llama-imatrix")
    words = [tool, "-m", "cut.gguf", "-f", "text", "-o", "out.gguf", "-c", "32", "--chunks", "2", "-t", "1"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]


@pytest.mark.parametrize("quant_type", ["Q4_K_M", "Q6_K", "Q2_K", "IQ4_XS"])
def test_eight_experts_are_where_a_cut_differs_and_it_says_so(eight: Pair, tmp_path: Path, quant_type: str) -> None:
    """llama-quantize keeps attention of a model of eight experts at Q8_0: the mix of the base is not that of the variant."""
    (tmp_path / "map.json").write_bytes(canonical_json(eight.drop_map.envelope(8)))
    summary = cut_directly(eight.quant("base", quant_type), tmp_path / "map.json", tmp_path / f"eight-{quant_type}.gguf")
    assert summary["name"] == "eight"
    assert "other types for a model of 8 experts, and the base has 8" in summary["notes"][0]
    types = {each.name: each.type.name for each in read_header(tmp_path / f"eight-{quant_type}.gguf").tensors}
    expected = {each.name: each.type.name for each in read_header(eight.quant("variant", quant_type)).tensors}
    different = {name for name in types if types[name] != expected[name]}
    assert different
    assert all(".attn_" in name for name in different)
    proof = prove_cut(locate(eight.quant("variant", quant_type)), locate(eight.quant("base", quant_type)))
    assert not proof.good
    assert "is Q" in str(proof.verdicts[0].reason) or "is IQ" in str(proof.verdicts[0].reason)


@pytest.mark.parametrize("quant_type", ["Q8_0", "BF16"])
def test_eight_experts_make_no_difference_where_all_tensors_have_one_type(eight: Pair, tmp_path: Path, quant_type: str) -> None:
    require_equal(eight, quant_type, tmp_path / "cut.gguf")


@pytest.fixture(scope="session")
def base_imatrix(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An imatrix of the base."""
    folder = tmp_path_factory.mktemp("imatrix")
    (folder / "text").write_text("some words of a text " * 300)
    tool, source = pair.toolchain.binary("llama-imatrix"), pair.folder / "base.gguf"
    words = [tool, "-m", source, "-f", "text", "-o", "imatrix.gguf", "-c", "32", "--chunks", "2", "-t", "1"]
    subprocess.run([str(word) for word in words], cwd=folder, capture_output=True, check=True)
    return folder / "imatrix.gguf"


def sliced_imatrix(imatrix: Path, drop_map: DropMap, target: Path) -> Path:
    """The rows of the experts that stay, by numpy and the gguf package."""
    reader, writer = gguf.GGUFReader(imatrix), gguf.GGUFWriter(target, "")
    writer.add_type("imatrix")
    for key in ("imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"):
        writer.add_key_value(key, reader.fields[key].contents(), *reader.fields[key].types[:2])
    for tensor in reader.tensors:
        rows = np.asarray(tensor.data)
        if "_exps." in tensor.name:
            rows = np.delete(rows, drop_map.drop[tensor.name.split(".")[1]], axis=0)
        writer.add_tensor(tensor.name, rows)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    return target


@pytest.mark.parametrize("quant_type", ["Q2_K_S", "IQ2_XS", "Q4_K_M"])
def test_with_each_experts_own_rows_of_an_imatrix_a_cut_equals_it_too(
    pair: Pair, base_imatrix: Path, tmp_path: Path, quant_type: str
) -> None:
    """Only the imatrix tells a cut from a quant of the pruned model: with the same rows the bytes are equal."""
    kept = sliced_imatrix(base_imatrix, pair.drop_map, tmp_path / "kept.gguf")
    for model, imatrix in (("base", base_imatrix), ("variant", kept)):
        quantize(
            *(pair.toolchain, pair.folder / f"{model}.gguf", tmp_path / f"{model}.gguf"),
            quant_type=quant_type,
            imatrix=imatrix,
            threads=2,
            log=tmp_path / "log",
        )
    base = locate(tmp_path / "base.gguf")
    plan = plan_cut(base, pair.drop_map, name=pair.name, where="map")
    assert (plan.file_type, plan.other_types) == (quant_type, None)
    cut(base, plan, tmp_path / "cut.gguf")
    assert (tmp_path / "cut.gguf").read_bytes() == (tmp_path / "variant.gguf").read_bytes()
    require_fits(kept, read_header(tmp_path / "variant.gguf"))
    with pytest.raises(InputError, match="the model's tensor wants 256 × 6; it was made on another model"):
        require_fits(base_imatrix, read_header(tmp_path / "variant.gguf"))


def test_an_imatrix_of_the_base_is_noted(pair: Pair, base_imatrix: Path, tmp_path: Path) -> None:
    quantize(
        *(pair.toolchain, pair.folder / "base.gguf", tmp_path / "q.gguf"),
        quant_type="Q4_K_M",
        imatrix=base_imatrix,
        threads=2,
        log=tmp_path / "log",
    )
    plan = plan_cut(locate(tmp_path / "q.gguf"), pair.drop_map, name=pair.name, where="map")
    assert plan.imatrix["quantize.imatrix.file"] == "imatrix.gguf"
    assert plan.imatrix["quantize.imatrix.chunks_count"] == 2
    (tmp_path / "map.json").write_bytes(canonical_json(pair.drop_map.envelope(10)))
    summary = cut_directly(tmp_path / "q.gguf", tmp_path / "map.json", tmp_path / "m-Q4_K_M.gguf")
    assert summary["notes"] == [
        "which was made with an imatrix of the base: not the bytes that an imatrix of the pruned model would give"
    ]


NAMES = ("tiny", "gemma-4-A4B-109e-v3", "Qwen3-30B-A3B-Instruct-2507", "x-7b1-chat", "olmoe 1b", "m-1.5B-large", "a--b-v2-it")


def test_names_are_taken_apart_as_by_the_toolchains_own_gguf_package(toolchain: Toolchain) -> None:
    script = (
        "import sys\nfrom gguf import Metadata\n"
        "for name in sys.argv[1:]: print([*Metadata.get_model_id_components(name, 3_300_000)][2:])"
    )
    environment = {**os.environ, "PYTHONPATH": str(toolchain.converter().parent / "gguf-py")}
    done = subprocess.run([sys.executable, "-c", script, *NAMES], capture_output=True, text=True, env=environment, check=True)
    from gguf import Metadata

    ours = [str([*Metadata.get_model_id_components(name, 3_300_000)][2:]) for name in NAMES]
    assert done.stdout.splitlines() == ours


def test_a_quantized_pruned_model_is_proved_against_the_bases_quant(pair: Pair) -> None:
    target, base = locate(pair.quant("variant", "Q4_K_M")), locate(pair.quant("base", "Q4_K_M"))
    assert infer_drop_map(target, base).drop == pair.drop_map.drop
    proof = prove_cut(target, base)
    assert proof.good
    assert [(each.name, each.size) for each in proof.verdicts] == [(target.name, target.header.file_size)]
    assert prove_cut(target, base, drop_map=pair.drop_map).good


def test_a_flipped_bit_is_traced_to_tensor_and_expert(pair: Pair, tmp_path: Path) -> None:
    base, damaged = locate(pair.quant("base", "Q4_K_M")), tmp_path / "damaged.gguf"
    data = bytearray(pair.quant("variant", "Q4_K_M").read_bytes())
    place = next(each for each in read_header(pair.quant("variant", "Q4_K_M")).tensors if "2.ffn_down_exps.w" in each.name)
    data[place.offset + place.size * 4 // 6] ^= 1  # the first byte of the fifth of six experts
    damaged.write_bytes(data)
    proof = prove_cut(locate(damaged), base)
    kept = [expert for expert in range(10) if expert not in pair.drop_map.drop["2"]]
    expected = f"tensor 'blk.2.ffn_down_exps.weight' differs in expert 4, which is expert {kept[4]} of the base"
    assert proof.verdicts[0].reason == expected
    assert prove_cut(locate(damaged), base, locate=False).verdicts[0].reason == "differs from what cutting the base gives"


@pytest.mark.parametrize(
    ("model", "kind", "matrix", "why"),
    [
        ("variant", "Q4_K_M", True, "the target was quantized with an imatrix and the base's GGUF without one, and a quant of"),
        ("base", "Q4_K_M", True, "the base's GGUF was quantized with an imatrix and the target without one, and a quant of"),
        ("base", "Q6_K", False, "the target is Q4_K_M and the base's GGUF Q6_K: give the base's of the same type"),
    ],
)
def test_what_an_honest_quant_of_the_pruned_model_differs_in_is_said(
    pair: Pair, base_imatrix: Path, tmp_path: Path, model: str, kind: str, matrix: bool, why: str
) -> None:
    quants = {each: pair.quant(each, "Q4_K_M") for each in ("base", "variant")}
    if matrix:
        imatrix = base_imatrix if model == "base" else sliced_imatrix(base_imatrix, pair.drop_map, tmp_path / "kept.gguf")
        quants[model] = tmp_path / f"{model}.gguf"
        source, log = pair.folder / f"{model}.gguf", tmp_path / "log"
        quantize(pair.toolchain, source, quants[model], quant_type=kind, imatrix=imatrix, threads=2, log=log)
    else:
        quants[model] = pair.quant(model, kind)
    target, base = locate(quants["variant"]), locate(quants["base"])
    for look in (True, False):
        reason = prove_cut(target, base, locate=look).verdicts[0].reason
        assert reason is not None
        assert reason.startswith(("metadata differ: ", "tensor "))
        assert f"; {why}" in reason
        assert (REMAKE in reason) is matrix


def test_eight_experts_are_said_to_be_the_reason(eight: Pair) -> None:
    proof = prove_cut(locate(eight.quant("variant", "Q4_K_M")), locate(eight.quant("base", "Q4_K_M")))
    reason = str(proof.verdicts[0].reason)
    assert "chooses other types for a model of 8 experts, and the base has 8, and a quant of the pruned weights is no" in reason
    assert reason.endswith(REMAKE)


def test_another_name_differs_in_metadata_alone(pair: Pair, tmp_path: Path) -> None:
    base = locate(pair.quant("base", "Q6_K"))
    cut(base, plan_cut(base, pair.drop_map, name="other-7B-v9", where="map"), tmp_path / "other.gguf")
    data = (tmp_path / "other.gguf").read_bytes().replace(b"other-7B-v9", b"other-8B-v9")
    (tmp_path / "other.gguf").write_bytes(data)
    reason = prove_cut(locate(tmp_path / "other.gguf"), base).verdicts[0].reason
    assert reason == "metadata differ: general.finetune; tensor data equal"


def test_a_pinned_base_is_checked_in_the_pass_that_cuts_it(pair: Pair, tmp_path: Path) -> None:
    path = pair.quant("base", "Q6_K")
    base = locate(path)
    plan = plan_cut(base, pair.drop_map, name=pair.name, where="map")
    assert cut(base, plan, tmp_path / "good.gguf", pinned=[sha256_file(path)]).checked == "read"
    with pytest.raises(CheckFailedError, match="use the pinned base"):
        cut(base, plan, tmp_path / "bad.gguf", pinned=["0" * 64])
    assert [each.name for each in tmp_path.iterdir()] == ["good.gguf"]
