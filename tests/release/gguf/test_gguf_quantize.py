from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from pruner.errors import CheckFailedError, InputError, UnavailableError
from release.gguf.golden import gguf_bytes, golden_values
from release.gguf.quantize import check_type, known_types, quantize
from release.gguf.reader import read_header
from release.gguf.summary import fallbacks, summarize
from release.gguf.toolchain import Toolchain, output_of
from release.gguf.types import FILE_TYPES, NEED_IMATRIX

FakeTools = Callable[[dict[str, str]], Toolchain]
HELP = "allowed quantization types\n  18  or  Q6_K    :  6.14G\n  15  or  Q4_K_M  :  4.58G\n"
PREAMBLE = f"""
if '--help' in sys.argv: print({HELP!r}); sys.exit(1)
if '--dry-run' in sys.argv: sys.exit()
data = open('model.gguf', 'rb').read()
output = pathlib.Path('output.gguf')
"""
"""What a stand-in for llama-quantize answers before it does its own thing."""


@pytest.mark.llama
@pytest.mark.parametrize("quant_type", ["Q6_K", "Q4_K_M"])
def test_bytes_depend_on_neither_threads_nor_folders(
    toolchain: Toolchain, model: Path, imatrix: Path, tmp_path: Path, recorder: Any, quant_type: str
):
    for place, threads in (("one", 1), ("two/deeper", 2)):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        shutil.copy(imatrix, folder / f"{threads}-imatrix.gguf")
        summary = quantize(
            *(toolchain, model, folder / "q.gguf"),
            quant_type=quant_type.lower(),
            imatrix=folder / f"{threads}-imatrix.gguf",
            threads=threads,
            log=tmp_path / "log",
            progress=recorder,
        )
    first, second = (tmp_path / "one" / "q.gguf").read_bytes(), (tmp_path / "two" / "deeper" / "q.gguf").read_bytes()
    assert first == second
    assert str(tmp_path).encode() not in first
    assert b"-imatrix.gguf" not in first
    assert summary == summarize(tmp_path / "one" / "q.gguf")
    assert (
        recorder.done[f"quantizing to {quant_type}"] == recorder.totals[f"quantizing to {quant_type}"] == summary.tensor_count
    )
    assert summary.metadata["quantize.imatrix.file"] == "imatrix.gguf"
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["1-imatrix.gguf", "q.gguf"]


@pytest.mark.llama
def test_types_are_read_back_and_the_fallbacks_explained(toolchain: Toolchain, model: Path, tmp_path: Path):
    summary = quantize(toolchain, model, tmp_path / "q.gguf", quant_type="Q6_K", threads=2, log=tmp_path / "log")
    assert summary.types == dict(Counter(tensor.type.name for tensor in read_header(tmp_path / "q.gguf").tensors))
    assert {"Q6_K", "Q8_0", "F32"} <= set(summary.types)
    assert summary.bits_per_weight < 10
    assert summary.parameters == summarize(model).parameters
    sentence = fallbacks(summary, "Q6_K")
    assert sentence.startswith(f"Q6_K: {summary.types['Q6_K']} tensors Q6_K, {summary.types['Q8_0']} fell back to Q8_0")
    assert sentence.endswith("not multiples of 256")


@pytest.mark.llama
def test_a_custom_mix_gets_the_types_that_its_file_chose(toolchain: Toolchain, model: Path, tmp_path: Path):
    (tmp_path / "mix.txt").write_text(
        "token_embd.weight=Q8_0\nblk.1.attn_q.weight=Q5_K\nblk.2.ffn_gate_inp.weight=Q8_0\nblk.0.ffn_down.weight=Q8_0\n"
    )
    summary = quantize(
        *(toolchain, model, tmp_path / "q.gguf"),
        quant_type="Q6_K",
        tensor_types=tmp_path / "mix.txt",
        threads=2,
        log=tmp_path / "log",
    )
    assert summary.chosen == {"token_embd.weight", "blk.1.attn_q.weight", "blk.0.ffn_down.weight"}
    assert replace(summary, chosen=frozenset()) == summarize(tmp_path / "q.gguf")
    counted = sum(tensor.type == "Q8_0" for tensor in summary.tensors) - 2
    assert f"{counted} to Q8_0" in fallbacks(summary, "Q6_K").replace(" fell back", "")
    types = {tensor.name: tensor.type for tensor in summary.tensors}
    assert types["token_embd.weight"] == "Q8_0"
    assert types["blk.1.attn_q.weight"] == "Q5_K"
    assert types["blk.0.attn_q.weight"] == "Q6_K"
    assert types["blk.2.ffn_gate_inp.weight"] == "F32"  # llama-quantize leaves routers alone


@pytest.mark.llama
def test_a_wrong_mix_is_refused_before_any_work(toolchain: Toolchain, model: Path, tmp_path: Path):
    for text, expected in (
        ("a=Q9_K\n", "mix.txt:1: ggml has no type"),
        ("blk.99.attn_q=Q6_K\n", "mix.txt:1: the model has no tensor"),
    ):
        (tmp_path / "mix.txt").write_text(text)
        with pytest.raises(InputError, match=expected):
            quantize(
                *(toolchain, model, tmp_path / "q.gguf"),
                quant_type="Q6_K",
                tensor_types=tmp_path / "mix.txt",
                threads=1,
                log=tmp_path / "log",
            )
    assert not (tmp_path / "log").exists()


@pytest.mark.llama
def test_types_are_those_of_the_tool(toolchain: Toolchain):
    known = known_types(toolchain)
    assert {"Q6_K", "Q4_K_M", "IQ4_XS", "MXFP4_MOE", "BF16"} <= set(known)
    assert "WARNING" not in known
    assert check_type(toolchain, "q4_k_m") == "Q4_K_M"
    with pytest.raises(InputError, match=r"quantization type 'Q6K': llama-quantize does not know it; did you mean 'Q6_K'"):
        check_type(toolchain, "Q6K")
    with pytest.raises(InputError, match=r"'zzz': .* known are Q1_0, "):
        check_type(toolchain, "zzz")


@pytest.mark.llama
def test_the_types_that_need_an_imatrix_are_those_of_the_tool(toolchain: Toolchain, model: Path):
    """The tiny model has rows of 256, which all types take."""

    def needs(quant_type: str) -> bool:
        words = [toolchain.binary("llama-quantize"), "--dry-run", model, quant_type]
        return "will require an imatrix" in output_of(words, folder=model.parent)

    assert {each for each in FILE_TYPES if needs(each)} == NEED_IMATRIX


@pytest.mark.llama
def test_a_type_that_needs_an_imatrix_says_so(toolchain: Toolchain, model: Path, tmp_path: Path):
    with pytest.raises(InputError, match="IQ2_XXS: this type needs an imatrix"):
        quantize(toolchain, model, tmp_path / "q.gguf", quant_type="IQ2_XXS", threads=1, log=tmp_path / "log")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.llama
def test_a_truncated_model_is_refused_in_one_line(toolchain: Toolchain, model: Path, tmp_path: Path):
    (tmp_path / "cut.gguf").write_bytes(model.read_bytes()[:-4096])
    with pytest.raises(InputError, match=r"cut\.gguf: truncated GGUF: tensor .* copy or download it again") as caught:
        quantize(toolchain, tmp_path / "cut.gguf", tmp_path / "q.gguf", quant_type="Q6_K", threads=1, log=tmp_path / "log")
    assert "\n" not in str(caught.value)


@pytest.mark.llama
@pytest.mark.parametrize(("size", "expected"), [("1m", "the Q6_K GGUF needs"), ("3600k", "no space left on the disk")])
def test_a_full_disk_is_named_before_or_after_and_leaves_nothing(
    toolchain: Toolchain, model: Path, tmp_path: Path, tiny_disk: Any, size: str, expected: str, monkeypatch: pytest.MonkeyPatch
):
    if size == "3600k":  # another process takes the space after the check
        monkeypatch.setattr("release.gguf.quantize.require_space", lambda *_: None)
    disk = tiny_disk(size)
    with pytest.raises(UnavailableError, match=expected) as caught:
        quantize(toolchain, model, disk / "q.gguf", quant_type="Q6_K", threads=1, log=tmp_path / "log")
    assert "\n" not in str(caught.value)
    assert list(disk.iterdir()) == []


class Killer:
    """A progress that kills the real llama-quantize when it has begun its second tensor."""

    def __init__(self) -> None:
        self.killed: list[int] = []

    @contextmanager
    def task(self, title: str, _total: int | None, _unit: str = "items") -> Iterator[Callable[[int], None]]:
        def advance(_amount: int) -> None:
            tools = [each for each in psutil.Process().children() if each.name().startswith("llama-quantize")]
            if title.startswith("quantizing") and tools and not self.killed:
                self.killed.append(tools[0].pid)
                with suppress(ProcessLookupError):
                    os.kill(tools[0].pid, signal.SIGKILL)

        yield advance

    def note(self, text: str) -> None:
        raise AssertionError(text)


@pytest.mark.llama
def test_the_real_tool_killed_midway_leaves_the_old_file_and_says_its_last_lines(toolchain: Toolchain, tmp_path: Path):
    entries: dict[str, str | int | float] = {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.context_length": 32,
        "llama.embedding_length": 2048,
        "llama.feed_forward_length": 2048,
        "llama.attention.head_count": 8,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
    }
    matrix = golden_values(1024, 2048, 1)
    names = ["token_embd", *(f"blk.0.{part}" for part in ("attn_q", "attn_k", "attn_v", "ffn_down", "ffn_up", "ffn_gate"))]
    (tmp_path / "big.gguf").write_bytes(gguf_bytes(entries, {f"{name}.weight": matrix for name in names}))
    target = tmp_path / "out" / "q.gguf"
    target.parent.mkdir()

    def killed() -> None:
        for _ in range(100):  # a tool that was done before it could be killed begins again
            target.write_bytes(b"old")
            options: dict[str, Any] = {"quant_type": "Q2_K", "threads": 1, "log": tmp_path / "log", "progress": Killer()}
            quantize(toolchain, tmp_path / "big.gguf", target, **options)

    with pytest.raises(UnavailableError, match=r"llama-quantize was killed by signal 9: .*\[ +\d/ +7\] .*\(log: ") as caught:
        killed()
    assert "\n" not in str(caught.value)
    assert [path.name for path in target.parent.iterdir()] == ["q.gguf"]
    assert target.read_bytes() == b"old"


BROKEN = {
    "killed": ("output.write_bytes(b'GGUF half'); os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9"),
    "crashing": ("print('[   1/  2] one\\nGGML_ASSERT'); sys.exit(1)", r"exit code 1: \[   1/  2\] one \| GGML_ASSERT"),
    "half written": ("output.write_bytes(data[:-100])", "unusable: truncated GGUF"),
    "writing nothing": ("", "unusable: GGUF cannot be read"),
    "writing another model": (
        "output.write_bytes(data.replace(b'a.weight', b'z.weight'))",
        r"changed the set of tensors, first 'z\.weight'",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_tool_gets_one_line_and_the_old_file_stays(tmp_path: Path, small_model: Path, how: str, fake_tools: FakeTools):
    body, expected = BROKEN[how]
    toolchain = fake_tools({"llama-quantize": PREAMBLE + body})
    target = tmp_path / "out" / "q.gguf"
    target.parent.mkdir()
    target.write_bytes(b"old")
    with pytest.raises((UnavailableError, CheckFailedError), match=expected) as caught:
        quantize(toolchain, small_model, target, quant_type="Q6_K", threads=1, log=tmp_path / "log")
    assert "\n" not in str(caught.value)
    assert [path.name for path in target.parent.iterdir()] == ["q.gguf"]
    assert target.read_bytes() == b"old"


def test_a_tool_that_ignored_the_chosen_types_is_found(tmp_path: Path, small_model: Path, fake_tools: FakeTools):
    change_type = (
        "place = data.index(b'a.weight') + 8 + 4 + 16\n"
        "output.write_bytes(data[:place] + bytes([1, 0, 0, 0]) + data[place + 4:])"
    )
    (tmp_path / "mix.txt").write_text("a.weight=Q8_0\n")
    with pytest.raises(CheckFailedError, match=r"tensor 'a\.weight' is F16, but line 1 chose Q8_0"):
        quantize(
            *(fake_tools({"llama-quantize": PREAMBLE + change_type}), small_model, tmp_path / "q.gguf"),
            quant_type="Q6_K",
            tensor_types=tmp_path / "mix.txt",
            threads=1,
            log=tmp_path / "log",
        )
    assert not (tmp_path / "q.gguf").exists()


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path, small_model: Path, fake_tools: FakeTools):
    toolchain = fake_tools({"llama-quantize": PREAMBLE + "assert not os.path.exists('stale')\noutput.write_bytes(data)"})
    target = tmp_path / "out" / "q.gguf"
    left = tmp_path / "out" / ".q.gguf.scratch"
    left.mkdir(parents=True)
    (left / "stale").touch()
    quantize(toolchain, small_model, target, quant_type="Q6_K", threads=1, log=tmp_path / "log")
    assert [path.name for path in target.parent.iterdir()] == ["q.gguf"]
    assert target.read_bytes() == small_model.read_bytes()


def test_a_missing_tool_is_named(tmp_path: Path, small_model: Path, fake_tools: FakeTools):
    toolchain = fake_tools({"llama-server": ""})
    with pytest.raises(UnavailableError, match="llama-quantize: not among"):
        quantize(toolchain, small_model, tmp_path / "q.gguf", quant_type="Q6_K", threads=1, log=tmp_path / "log")
