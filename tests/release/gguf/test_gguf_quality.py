from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pruner.errors import CheckFailedError, InputError, UnavailableError
from release.gguf.perplexity import Predictions, compare_quant, predict, predictions_size, read_predictions
from release.gguf.quality import (
    Estimate,
    Quality,
    QualitySource,
    QualityText,
    QuantQuality,
    is_complete,
    parse_divergence,
    read_quality,
    write_quality,
)
from release.gguf.quantize import quantize
from release.gguf.toolchain import Toolchain

FakeTools = Callable[[Mapping[str, str]], Toolchain]
REPORT = """\
  15    2073.7289 ±  317.3782       0.00874 ±    0.00618       0.00286 ±    0.00071     0.502 ±  0.071 %    99.153 ±  0.298 %

====== Perplexity statistics ======
Mean PPL(Q)                   : 2062.360916 ± 307.408243
Mean PPL(base)                : 2041.901777 ± 302.895994
Cor(ln(PPL(Q)), ln(PPL(base))):  99.92%
Mean ln(PPL(Q)/PPL(base))     :   0.009970 ±   0.005824
Mean PPL(Q)/PPL(base)         :   1.010020 ±   0.005883
Mean PPL(Q)-PPL(base)         :  20.459139 ±  12.690631

====== KL divergence statistics ======
Mean    KLD:   0.002702 ±   0.000664
Maximum KLD:   0.555195
99.9%   KLD:   0.209086
99.0%   KLD:   0.041896
Median  KLD:   0.000264
Minimum KLD:  -0.000002

====== Token probability statistics ======
Mean    Δp: -0.002 ± 0.016 %
Same top p: 99.206 ± 0.280 %
"""


def test_the_report_is_read_with_the_digits_that_it_prints():
    found, source = parse_divergence(REPORT)
    assert found.perplexity == Estimate(value=2062.360916, error=307.408243)
    assert found.perplexity_ratio == Estimate(value=1.01002, error=0.005883)
    assert found.kl_divergence == Estimate(value=0.002702, error=0.000664)
    assert (found.median, found.p99, found.maximum) == (0.000264, 0.041896, 0.555195)
    assert found.same_top == Estimate(value=0.99206, error=0.0028)
    assert source == Estimate(value=2041.901777, error=302.895994)


def test_a_quant_that_predicts_the_same_has_a_ratio_without_error():
    found, _ = parse_divergence(REPORT.replace("1.010020 ±   0.005883", "1.000000 ±       -nan"))
    assert found.perplexity_ratio == Estimate(value=1, error=0)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("Median  KLD:   0.000264\n", "", "0 lines"),
        ("2062.360916 ± 307.408243", "nan ± nan", "0 lines"),
        ("0.002702 ±", "inf ±", "0 lines"),
        ("0.002702 ±   0.000664", "0.002702", "0 lines"),
        ("Maximum KLD:   0.555195", "Maximum KLD:   0.555195 or so", "0 lines"),
        ("Maximum KLD:   0.555195\n", "Maximum KLD:   0.555195\nMaximum KLD:   0.1\n", "2 lines"),
    ],
)
def test_a_report_with_anything_else_in_it_is_refused(old: str, new: str, expected: str):
    assert old in REPORT
    with pytest.raises(CheckFailedError, match=expected) as caught:
        parse_divergence(REPORT.replace(old, new))
    assert "\n" not in str(caught.value)


def test_a_report_that_was_cut_off_is_not_complete():
    assert is_complete(REPORT)
    assert not is_complete(REPORT[: REPORT.index("Same top p")])


def quality() -> Quality:
    divergence, source = parse_divergence(REPORT)
    return Quality(
        name="x",
        toolchain_commit="0" * 40,
        bit_exact=True,
        text=QualityText(name="t.txt", sha256="1" * 64, chunks=16, context=128, tokens=1008),
        source=QualitySource(type="bf16", sha256="2" * 64, size=9, perplexity=source),
        quants={"Q6_K": QuantQuality(sha256="3" * 64, size=5, bits_per_weight=6.6, divergence=divergence)},
    )


def test_the_evidence_is_written_and_read_back(tmp_path: Path):
    write_quality(tmp_path / "quality.json", quality())
    assert read_quality(tmp_path / "quality.json") == quality()
    assert (tmp_path / "quality.json").read_bytes() == quality().to_bytes()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"sha256": "333', '"sha256": "xyz', r"quants\.Q6_K\.sha256"),
        ('"tokens": 1008', '"tokens": 0', r"text\.tokens"),
        ('"schema": "moe-release/quality/v1"', '"schema": "v2"', "schema"),
        ('"bit_exact": true,', "", "bit_exact"),
        ('"value": 0.002702', '"value": NaN', "kl_divergence"),
    ],
)
def test_a_wrong_quality_file_is_one_line(tmp_path: Path, old: str, new: str, expected: str):
    text = quality().to_bytes().decode()
    assert old in text
    (tmp_path / "quality.json").write_text(text.replace(old, new))
    with pytest.raises(InputError, match=f"quality\\.json: .*{expected}") as caught:
        read_quality(tmp_path / "quality.json")
    assert "\n" not in str(caught.value)


def put_predictions(path: Path, *, chunks: int = 2, context: int = 128, vocabulary: int = 5, cut: int = 0) -> Path:
    head = struct.pack("<8sIii", b"_logits_", context, vocabulary, chunks)
    path.write_bytes((head + bytes(predictions_size(chunks, context, vocabulary) - len(head)))[: -cut or None])
    return path


def test_only_a_whole_predictions_file_is_taken(tmp_path: Path):
    found = read_predictions(put_predictions(tmp_path / "p"))
    assert found == Predictions(tmp_path / "p", 2, 128, 5)
    assert found.tokens == 2 * 63
    assert read_predictions(put_predictions(tmp_path / "p", cut=1)) is None
    assert read_predictions(put_predictions(tmp_path / "p", chunks=0)) is None
    assert read_predictions(tmp_path / "none") is None
    (tmp_path / "p").write_bytes(b"GGUF" + bytes(100))
    assert read_predictions(tmp_path / "p") is None


@pytest.fixture(scope="module")
def predictions(tmp_path_factory: pytest.TempPathFactory, toolchain: Toolchain, model: Path, text: Path) -> Predictions:
    folder = tmp_path_factory.mktemp("predictions")
    return predict(toolchain, model, text, folder / "p.bin", chunks=8, context=64, threads=1, log=folder / "log")


@pytest.mark.llama
def test_quants_are_compared_with_the_unquantized_model(
    toolchain: Toolchain, model: Path, predictions: Predictions, tmp_path: Path, recorder: Any
):
    log = tmp_path / "log"
    quantize(toolchain, model, tmp_path / "q6.gguf", quant_type="Q6_K", threads=1, log=log)
    quantize(toolchain, model, tmp_path / "q2.gguf", quant_type="Q2_K", threads=1, log=log)
    found = {
        name: compare_quant(toolchain, path, predictions, threads=1, log=log, title=name, progress=recorder)
        for name, path in {"itself": model, "q6": tmp_path / "q6.gguf", "q2": tmp_path / "q2.gguf"}.items()
    }
    divergence = {name: each.kl_divergence.value for name, (each, _) in found.items()}
    assert divergence["itself"] < 1e-5
    assert divergence["itself"] < divergence["q6"] < divergence["q2"]
    assert len({source for _, source in found.values()}) == 1, "all are compared with the same predictions"
    assert found["itself"][0].same_top.value == 1
    assert (predictions.chunks, predictions.context, predictions.tokens) == (8, 64, 8 * 31)
    assert recorder.totals["q6"] == 8
    again = compare_quant(toolchain, tmp_path / "q2.gguf", predictions, threads=2, log=log, title="q2")
    assert again == found["q2"], "threads change nothing"


@pytest.mark.llama
def test_predictions_depend_on_neither_folder_nor_threads(
    toolchain: Toolchain, model: Path, text: Path, predictions: Predictions, tmp_path: Path, recorder: Any
):
    other = shutil.copy(text, tmp_path / "another name.txt")
    target = tmp_path / "deep" / "p.bin"
    predict(toolchain, model, Path(other), target, chunks=8, context=64, threads=2, log=tmp_path / "log", progress=recorder)
    assert target.read_bytes() == predictions.path.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["p.bin"]
    assert recorder.done == {"predicting with the unquantized model": 8}


@pytest.mark.llama
def test_a_text_that_is_too_short_is_named(toolchain: Toolchain, model: Path, tmp_path: Path, recorder: Any):
    short, arguments = tmp_path / "short.txt", {"chunks": 8, "context": 64, "threads": 1, "log": tmp_path / "log"}
    for text, expected in (("word", "two chunks need 128 tokens"), ("Give the colour of it. " * 6, "two chunks need 128")):
        short.write_text(text)
        with pytest.raises(InputError, match=rf"short\.txt: the text .*{expected}") as caught:
            predict(toolchain, model, short, tmp_path / "p.bin", **arguments)
        assert "\n" not in str(caught.value)
    short.write_text("Give the colour that it shows. " * 30)
    with pytest.raises(InputError, match=r"tokens are scored, 100 are needed"):
        predict(toolchain, model, short, tmp_path / "p.bin", progress=recorder, **arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "short.txt"]


@pytest.mark.llama
def test_a_full_disk_is_named_before_and_after(
    toolchain: Toolchain, model: Path, text: Path, tmp_path: Path, tiny_disk: Any, monkeypatch: pytest.MonkeyPatch
):
    disk = tiny_disk("1m")
    arguments = {"chunks": 40, "context": 64, "threads": 1, "log": tmp_path / "log"}
    with pytest.raises(UnavailableError, match="predictions needs"):
        predict(toolchain, model, text, disk / "p.bin", **arguments)
    monkeypatch.setattr("release.gguf.perplexity.require_space", lambda *_: None)  # another process takes the space
    with pytest.raises(UnavailableError, match="no space left on the disk") as caught:
        predict(toolchain, model, text, disk / "p.bin", **arguments)
    assert "\n" not in str(caught.value)
    assert list(disk.iterdir()) == []


BROKEN = {
    "killed": ("print('computing'); sys.stdout.flush(); os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9: computing"),
    "failing": ("print('unable to load model'); sys.exit(1)", "exit code 1: unable to load model"),
    "losing its statistics each time": ("print('   1  5.0 ±  1.0')", "ended 10 times without its statistics"),
    "printing nonsense": (f"print({REPORT.replace('0.002702', 'nan')!r})", "0 lines"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_tool_gets_one_line(
    tmp_path: Path, small_model: Path, fake_tools: FakeTools, how: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("release.gguf.perplexity.LONGEST_PAUSE", 0.0)
    body, expected = BROKEN[how]
    found = read_predictions(put_predictions(tmp_path / "p"))
    assert found
    tools = fake_tools({"llama-perplexity": body})
    with pytest.raises((CheckFailedError, UnavailableError), match=expected) as caught:
        compare_quant(tools, small_model, found, threads=1, log=tmp_path / "log", title="x")
    assert "\n" not in str(caught.value)


def test_statistics_that_were_lost_once_are_asked_for_again(
    tmp_path: Path, small_model: Path, fake_tools: FakeTools, recorder: Any
):
    mark = f"mark = pathlib.Path({str(tmp_path / 'mark')!r})"
    body = f"{mark}\nif mark.exists(): print({REPORT!r})\nif '-m' in sys.argv: mark.touch()"
    found = read_predictions(put_predictions(tmp_path / "p"))
    assert found
    tools = fake_tools({"llama-perplexity": body})
    divergence, _ = compare_quant(tools, small_model, found, threads=1, log=tmp_path / "l", title="x", progress=recorder)
    assert divergence == parse_divergence(REPORT)[0]
    assert recorder.notes == ["llama-perplexity lost its last lines; running it again"]
