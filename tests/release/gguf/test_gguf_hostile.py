"""Files beside the GGUFs as anybody may have written them: quality.json, an imatrix, a tensor_types file, predictions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from release.gguf.imatrix import read_imatrix, require_fits
from release.gguf.perplexity import read_predictions
from release.gguf.quality import parse_divergence, read_quality
from release.gguf.reader import read_header
from release.gguf.summary import summarize
from release.gguf.tensor_types import assign, read_tensor_types
from tests.hostile import FUZZ, NAMES, assert_read_or_refused, changed_bytes, changed_json
from tests.release.gguf.test_gguf_imatrix import write_imatrix
from tests.release.gguf.test_gguf_quality import REPORT

ESTIMATE = {"value": 1.5, "error": 0.25}
DIVERGENCE: dict[str, Any] = {
    **dict.fromkeys(("perplexity", "perplexity_ratio", "kl_divergence", "same_top"), ESTIMATE),
    "median": 0.1,
    "p99": 0.2,
    "maximum": 0.3,
}
QUALITY = {
    "schema": "moe-release/quality/v1",
    "name": "tiny",
    "toolchain_commit": "0c1e57098",
    "bit_exact": True,
    "text": {"name": "quality.txt", "sha256": "a" * 64, "chunks": 4, "context": 64, "tokens": 128},
    "source": {"type": "BF16", "sha256": "b" * 64, "size": 9, "perplexity": ESTIMATE},
    "quants": {"Q6_K": {"sha256": "c" * 64, "size": 9, "bits_per_weight": 6.5, "divergence": DIVERGENCE}},
}
TYPES = "blk\\.0\\.ffn_down_exps=q8_0\nffn_(up|gate)_exps=q4_K output.weight=f16\n"


@FUZZ
@given(data=st.data())
def test_quality(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "quality.json"
    path.write_bytes(data.draw(changed_json(QUALITY)))
    assert_read_or_refused(lambda: read_quality(path).to_bytes(), str(path), path.stat().st_size)


@FUZZ
@given(data=st.data())
def test_a_report_of_llama_perplexity(data: st.DataObject) -> None:
    text = data.draw(changed_bytes(REPORT.encode())).decode("utf-8", "replace")
    assert_read_or_refused(lambda: parse_divergence(text), "llama-perplexity", len(text))


@pytest.fixture(scope="module")
def imatrix(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    counts = {"blk.0.attn_q.weight": [640.0], "blk.0.ffn_down_exps.weight": [3.0, 0.0, 5.0, 0.0]}
    return write_imatrix(tmp_path_factory.mktemp("imatrix") / "i.gguf", counts).read_bytes()


@FUZZ
@given(data=st.data())
def test_an_imatrix(tmp_path: Path, imatrix: bytes, data: st.DataObject) -> None:
    path = tmp_path / "i.gguf"
    path.write_bytes(data.draw(changed_bytes(imatrix)))
    assert_read_or_refused(lambda: read_imatrix(path).to_json(), str(path), path.stat().st_size)
    (tmp_path / "sound.gguf").write_bytes(imatrix)
    sound = read_header(tmp_path / "sound.gguf")
    sums = [each for each in sound.tensors if each.name.endswith(".in_sum2")]
    weights = tuple(
        replace(each, name=each.name.removesuffix(".in_sum2"), shape=(each.shape[0], 1, *each.shape[1:])) for each in sums
    )
    model = replace(sound, tensors=weights)
    require_fits(tmp_path / "sound.gguf", model)
    assert_read_or_refused(lambda: require_fits(path, model), str(path), path.stat().st_size)
    assert_read_or_refused(lambda: summarize(path).to_json(), str(path), path.stat().st_size)


@FUZZ
@given(data=st.data(), name=st.sampled_from([*NAMES, "(a|a)+b", "(?=x)", "[", "a{9}", "\\", "x*" * 60]))
def test_tensor_types(tmp_path: Path, data: st.DataObject, name: str) -> None:
    path = tmp_path / "types.txt"
    text = TYPES.replace("output.weight", data.draw(st.sampled_from(["output.weight", name])))
    path.write_bytes(data.draw(changed_bytes(text.encode("utf-8", "surrogatepass"))))

    def used() -> None:
        names = [f"blk.{layer}.ffn_{part}_exps.weight" for layer in range(4) for part in ("up", "gate", "down")]
        assign(path, read_tensor_types(path), [*names, "output.weight"])

    assert_read_or_refused(used, str(path), path.stat().st_size)


@FUZZ
@given(data=st.data())
def test_predictions(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "predictions.bin"
    path.write_bytes(data.draw(changed_bytes(b"_logits_" + (64).to_bytes(4, "little") * 3 + bytes(4096))))
    assert_read_or_refused(lambda: read_predictions(path), str(path), path.stat().st_size)
