from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from release.actions.doctor import diagnose
from release.commands.toolchain import toolchain_install
from release.gguf.golden import GOLDEN, golden_digests, golden_imatrix, golden_model, golden_values, self_test
from release.gguf.install import CMAKE_FLAGS
from release.gguf.reader import read_header
from release.gguf.toolchain import Toolchain, find_toolchain

IMATRIX_SHA256 = "b63c5ffdc2ca18412cb1801dc11a6c810a18c6bbd77601e81b21998c7e84828c"

WRAPPER = """#!{python}
import pathlib, subprocess, sys
pathlib.Path({calls!r}).open("a").write("x")
code = subprocess.run([{tool!r}, *sys.argv[1:]]).returncode
if "--pure" in sys.argv and sys.argv[-2] == {broken!r} and "--imatrix" in sys.argv:
    output = pathlib.Path("output.gguf")
    data = bytearray(output.read_bytes())
    data[-1] ^= 1
    output.write_bytes(data)
sys.exit(code)
"""


@pytest.fixture
def wrapped(toolchain: Toolchain, tmp_path: Path) -> Callable[[str], Toolchain]:
    """The real llama-quantize behind a script that counts its calls and spoils one bit of one type."""

    def make(broken: str) -> Toolchain:
        script = tmp_path / "bin" / "llama-quantize"
        script.parent.mkdir(exist_ok=True)
        tool = str(toolchain.binary("llama-quantize"))
        script.write_text(WRAPPER.format(python=sys.executable, calls=str(tmp_path / "calls"), tool=tool, broken=broken))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        return find_toolchain(tmp_path / "bin")

    return make


def calls(tmp_path: Path) -> int:
    return len((tmp_path / "calls").read_text())


def test_the_golden_model_is_the_same_on_every_machine():
    assert hashlib.sha256(golden_model()).hexdigest() == "c651691a0ddbc37c670730f4bbdcb4524a0a46cbc5392bf3d31b1a06c1704be0"
    assert hashlib.sha256(golden_imatrix()).hexdigest() == IMATRIX_SHA256
    values = golden_values(24, 512, 0)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert not values[12].any()
    assert np.array_equal(values, golden_values(24, 512, 0))
    assert not np.array_equal(values, golden_values(24, 512, 1))


def test_the_golden_files_are_ggufs_that_others_read(tmp_path: Path):
    (tmp_path / "model.gguf").write_bytes(golden_model())
    (tmp_path / "imatrix.gguf").write_bytes(golden_imatrix())
    ours = read_header(tmp_path / "model.gguf")
    theirs = gguf.GGUFReader(tmp_path / "model.gguf")
    assert [tensor.name for tensor in ours.tensors] == [tensor.name for tensor in theirs.tensors]
    for seed, tensor in enumerate(theirs.tensors):
        assert np.array_equal(tensor.data, golden_values(24, 512, seed))
    assert len(gguf.GGUFReader(tmp_path / "imatrix.gguf").tensors) == 2 * len(ours.tensors)


@pytest.mark.llama
def test_the_pinned_toolchain_gives_the_golden_digests(toolchain: Toolchain, tmp_path: Path):
    assert golden_digests(toolchain, tmp_path / "log") == GOLDEN
    for kind in ("Q2_K", "Q3_K_S", "Q4_K_S", "Q5_K_S", "Q6_K"):
        assert GOLDEN[kind] != GOLDEN[f"{kind}+imatrix"], "the importance matrix must have been used"
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
    found = self_test(toolchain, cache=tmp_path / "cache")
    assert found.bit_exact
    assert str(found) == f"bit-exact: all {len(GOLDEN)} golden digests met"
    assert found.covers(["F32", "Q6_K", "Q8_0", "Q5_0"])
    assert not found.covers(["Q6_K", "IQ1_S"])


@pytest.mark.llama
def test_one_other_bit_makes_a_toolchain_not_bit_exact(wrapped: Callable[[str], Toolchain], tmp_path: Path):
    found = self_test(wrapped("Q5_K_S"), cache=tmp_path / "cache")
    assert not found.bit_exact
    assert str(found) == "not bit-exact: other bytes in Q5_K_S+imatrix"
    assert not found.covers(["Q6_K"])


@pytest.mark.llama
def test_the_result_is_remembered_for_these_binaries_alone(wrapped: Callable[[str], Toolchain], tmp_path: Path):
    toolchain = wrapped("none")
    first = self_test(toolchain, cache=tmp_path / "cache")
    tested = calls(tmp_path)
    assert self_test(toolchain, cache=tmp_path / "cache") == first
    assert calls(tmp_path) == tested
    other = replace(toolchain, binaries={**toolchain.binaries, "libggml-base.so": "0" * 64})
    assert self_test(other, cache=tmp_path / "cache") == first
    assert calls(tmp_path) == tested + len(GOLDEN)
    record = next((tmp_path / "cache" / "golden").glob("*.json"))
    record.write_text(record.read_text()[:-20])  # a damaged memory is no memory
    self_test(toolchain, cache=tmp_path / "cache")
    self_test(other, cache=tmp_path / "cache")
    assert calls(tmp_path) == tested + 2 * len(GOLDEN)


def test_a_result_for_other_golden_digests_is_forgotten(
    tmp_path: Path, fake_tools: Callable[[Mapping[str, str]], Toolchain], monkeypatch: pytest.MonkeyPatch
):
    toolchain = fake_tools(
        {"llama-quantize": "pathlib.Path('output.gguf').write_bytes(pathlib.Path('golden.gguf').read_bytes())"}
    )
    assert len(self_test(toolchain, cache=tmp_path).differing) == len(GOLDEN)
    record = next((tmp_path / "golden").glob("*.json"))
    record.write_text(json.dumps({"differing": [], "golden": "0" * 64}))
    assert len(self_test(toolchain, cache=tmp_path).differing) == len(GOLDEN)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "llama-quantize was killed by signal 9"),
        ("pathlib.Path('output.gguf').write_bytes(b'GGUF')", "truncated or damaged GGUF"),
    ],
)
def test_a_tool_that_does_not_work_is_not_bit_exact_and_not_remembered(
    tmp_path: Path, fake_tools: Callable[[Mapping[str, str]], Toolchain], body: str, expected: str
):
    found = self_test(fake_tools({"llama-quantize": body}), cache=tmp_path / "cache")
    assert not found.bit_exact
    assert expected in str(found)
    assert "\n" not in str(found)
    assert not list((tmp_path / "cache").rglob("*.json"))


@pytest.mark.llama
def test_doctor_says_it(wrapped: Callable[[str], Toolchain], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MOE_RELEASE_CACHE", str(tmp_path / "cache"))
    for broken, state in (("none", "ok"), ("Q6_K", "warning")):
        wrapped(broken)
        finding = next(each for each in diagnose(tmp_path / "bin") if each.name == "golden self-test")
        assert finding.state == state, finding.detail
    assert finding.detail == "not bit-exact: other bytes in Q6_K+imatrix; its quants will not be called bit-identical"


@pytest.mark.llama
@pytest.mark.parametrize("if_missing", [True, False])
def test_an_installation_ends_with_the_self_test(
    wrapped: Callable[[str], Toolchain],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    if_missing: bool,
):
    source = tmp_path / "source"
    (source / "gguf-py" / "gguf").mkdir(parents=True)
    (source / "gguf-py" / "gguf" / "__init__.py").touch()
    (source / "convert_hf_to_gguf.py").touch()
    monkeypatch.setenv("MOE_RELEASE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MOE_RELEASE_LLAMA_CPP", str(tmp_path / "bin"))
    monkeypatch.setenv("MOE_RELEASE_LLAMA_CPP_SOURCE", str(source))
    toolchain = wrapped("Q4_K_S")
    given: list[tuple[str, ...]] = []

    def install(*, cmake_arguments: tuple[str, ...], **_rest: object) -> Toolchain:
        given.append(cmake_arguments)
        return toolchain

    monkeypatch.setattr("release.gguf.install.install_toolchain", install)  # the build itself takes ten minutes
    toolchain_install(["-DGGML_CUDA=ON"], if_missing=if_missing)
    assert "; not bit-exact: other bytes in Q4_K_S+imatrix" in capsys.readouterr().out
    assert given == ([] if if_missing else [("-DGGML_CUDA=ON",)])
    assert "-DGGML_NATIVE=OFF" in CMAKE_FLAGS
    assert os.access(tmp_path / "cache" / "golden", os.R_OK)
