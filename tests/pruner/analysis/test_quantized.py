"""Bases that are published packed: gpt-oss in MXFP4 is unpacked to the numbers that transformers unpacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pruner.calibration import CalibrationSet
from pruner.errors import InputError, UnavailableError
from pruner.files import sha256_bytes
from pruner.statistics import Sums, statistics_bytes
from tests.pruner.family_models import rewrite

from .conftest import COMMON, EXPERTS, TOP_K, randomize, save_tokenizer

torch = pytest.importorskip("torch", reason="needs the analysis extra")
transformers = pytest.importorskip("transformers", reason="needs the analysis extra")
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::UserWarning")]

from pruner.analysis import analyze  # noqa: E402 - after the skip
from tests.pruner.test_families_quantized import FP8, mxfp4  # noqa: E402

SKIPPED = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]


def copy(folder: Path, target: Path) -> None:
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """gpt-oss as it is published: MXFP4 experts, bfloat16 for the rest, and a config that names no dtype."""
    config = transformers.GptOssConfig(
        **COMMON, head_dim=16, intermediate_size=32, num_local_experts=EXPERTS, num_experts_per_tok=TOP_K,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )  # fmt: skip
    model = transformers.GptOssForCausalLM(config)
    randomize(model)
    folder = tmp_path_factory.mktemp("packed")
    model.to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(folder)
    rewrite(folder, mxfp4)
    quantization = {"quant_method": "mxfp4", "modules_to_not_convert": SKIPPED}
    change_config(folder, quantization_config=quantization, dtype=None)
    return folder


@pytest.fixture(scope="module")
def unpacked(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same base as transformers unpacks it."""
    folder = tmp_path_factory.mktemp("unpacked")
    copy(packed, folder)
    wanted = transformers.Mxfp4Config(dequantize=True)
    model = transformers.GptOssForCausalLM.from_pretrained(packed, quantization_config=wanted, dtype=torch.bfloat16)
    rewrite(folder, lambda _packed: {name: tensor.contiguous() for name, tensor in model.state_dict().items()})
    change_config(folder, quantization_config=None)
    return folder


def numbers(sums: Sums) -> str:
    return sha256_bytes(b"".join(getattr(sums, name).tobytes() for name in ("weighted_norm", "norm", "weight", "count")))


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_packed_experts_have_the_numbers_of_the_unpacked(
    dtype: str, packed: Path, unpacked: Path, calibration: CalibrationSet, tmp_path: Path
) -> None:
    whole = analyze(packed, calibration, records=tmp_path / "whole", dtype=dtype)
    layered = analyze(packed, calibration, records=tmp_path / "layered", dtype=dtype, offload=True)
    plain = analyze(unpacked, calibration, records=tmp_path / "plain", dtype=dtype)
    assert whole.header.dtype == ("bfloat16" if dtype == "auto" else dtype)
    assert numbers(whole.sums("all")) == numbers(plain.sums("all"))
    assert statistics_bytes(layered) == statistics_bytes(whole)


@pytest.mark.parametrize("offload", [False, True])
def test_a_tensor_that_is_missing_is_named_as_before(
    offload: bool, packed: Path, calibration: CalibrationSet, tmp_path: Path
) -> None:
    copy(packed, tmp_path)
    rewrite(tmp_path, lambda tensors: {name: each for name, each in tensors.items() if "1.mlp.experts.down_proj" not in name})
    with pytest.raises(InputError, match=r"lacks \d of its model's tensors, the first is model\.layers\.1\.mlp\.experts\.down"):
        analyze(tmp_path, calibration, records=tmp_path / "records", offload=offload)


@pytest.mark.parametrize("offload", [False, True])
def test_blocks_without_their_scales_are_refused(
    offload: bool, packed: Path, calibration: CalibrationSet, tmp_path: Path
) -> None:
    copy(packed, tmp_path)
    rewrite(tmp_path, lambda tensors: {name: each for name, each in tensors.items() if "1.mlp.experts.down_proj_s" not in name})
    with pytest.raises(InputError, match=r"the base cannot be loaded|tensors of the base do not fit") as caught:
        analyze(tmp_path, calibration, records=tmp_path / "records", offload=offload)
    assert "\n" not in str(caught.value)
    assert "above" not in str(caught.value)


@pytest.mark.parametrize("offload", [False, True])
def test_what_cannot_be_unpacked_is_one_line(offload: bool, packed: Path, calibration: CalibrationSet, tmp_path: Path) -> None:
    copy(packed, tmp_path)
    change_config(tmp_path, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(
        InputError, match="is quantized by gptq, which cannot be unpacked; name a base that is not, or in mxfp4"
    ):
        analyze(tmp_path, calibration, records=tmp_path / "records", offload=offload)
    change_config(tmp_path, quantization_config=FP8)
    if transformers.utils.is_accelerate_available():
        pytest.skip("accelerate is installed, which FP8 needs")
    with pytest.raises(UnavailableError, match="pip install accelerate") as caught:
        analyze(tmp_path, calibration, records=tmp_path / "records", offload=offload)
    assert "\n" not in str(caught.value)
