"""The GGUF stages on the real tiny model: resume, quants side by side, splits, quality, and quants made again from the lock."""

from __future__ import annotations

import json
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from pruner.errors import CheckFailedError, InputError, MoeReleaseError, UnavailableError
from pruner.files import sha256_file
from release.commands.requantize import requantize_manifest
from release.context import Context, Options
from release.gguf.imatrix import read_imatrix
from release.gguf.quality import read_quality
from release.gguf.reader import read_header
from release.gguf.toolchain import Toolchain
from release.lock import read_lock, write_lock
from release.manifest import load_manifest
from release.pipeline import StageResult, run_pipeline
from release.stages.evaluate import model_digest
from release.stages.lock_draft import draft_lock
from release.stages.quantize import model_file, quant_files
from release.verification.requantize import requantize
from tests.digests import digests
from tests.release.gguf.test_gguf_imatrix import write_imatrix

pytest.importorskip("torch", reason="the converter needs the analysis extra")
pytestmark = [pytest.mark.torch, pytest.mark.llama]

QUALITY = "{text: {path: tiny/calibration.txt}, chunks: 4, context: 64}"
WRAPPER = """#!{python}
import os, pathlib, signal, subprocess, sys
with pathlib.Path({calls!r}).open("a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
if sys.argv[-2] == {fatal!r} and pathlib.Path({fuse!r}).exists():
    pathlib.Path({fuse!r}).unlink()
    pathlib.Path("output.gguf").write_bytes(b"GGUF half")
    print("[   7/  90] blk.0.attn_q.weight", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(subprocess.run([{tool!r}, *sys.argv[1:]]).returncode)
"""


class Notes:
    """A progress that remembers its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def __getattr__(self, name: str) -> Any:
        from pruner.progress import SILENT

        return getattr(SILENT, name)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, manifests: Path, toolchain: Toolchain) -> Path:
    """A manifest's folder whose model is converted and calibrated once."""
    made = tmp_path_factory.mktemp("quantize")
    (made / "tiny").mkdir()
    shutil.copytree(manifests / "tiny" / "model", made / "tiny" / "model")
    shutil.copy(manifests / "tiny" / "calibration.txt", made / "tiny")
    write_manifest(made)
    context(made, until="calibrate")
    return made


@pytest.fixture
def folder(converted: Path, tmp_path: Path) -> Path:
    """A copy of it for one test, with time stamps, so that what is up to date stays so."""
    shutil.copytree(converted, tmp_path / "x", copy_function=shutil.copy2)
    return tmp_path / "x"


def write_manifest(folder: Path, quants: str = "[Q6_K]", imatrix: str | None = None, **more: str) -> None:
    matrix = imatrix or "{text: {path: tiny/calibration.txt}, chunks: 4, context: 128, parse_special: true}"
    extra = "".join(f"  {key}: {value}\n" for key, value in more.items())
    (folder / "x.yaml").write_text(
        "schema: moe-release/v1\nname: x\nbase: {path: tiny/model}\n"
        f"gguf:\n  threads: 1\n  imatrix: {matrix}\n  quants: {quants}\n{extra}"
    )


def context(folder: Path, *, until: str = "quantize", **options: Any) -> tuple[Context, list[StageResult]]:
    made = Context(load_manifest(folder / "x.yaml"), folder / "work", Options(until=until, **options), progress=Notes())
    return made, run_pipeline(made)


def wrapped(toolchain: Toolchain, folder: Path, monkeypatch: pytest.MonkeyPatch, fatal: str = "none") -> Path:
    """Put the real tools into a folder, llama-quantize behind a script that counts and, once, dies on one type."""
    tools = folder / "tools"
    tools.mkdir()
    for name in toolchain.binaries:
        (tools / name).symlink_to(toolchain.binary(name))
    (tools / "llama-quantize").unlink()
    script = WRAPPER.format(
        python=sys.executable,
        calls=str(folder / "calls"),
        fatal=fatal,
        fuse=str(folder / "fuse"),
        tool=str(toolchain.binary("llama-quantize")),
    )
    (tools / "llama-quantize").write_text(script)
    (tools / "llama-quantize").chmod(stat.S_IRWXU)
    monkeypatch.setenv("MOE_RELEASE_LLAMA_CPP_SOURCE", str(toolchain.converter().parent))
    monkeypatch.setenv("MOE_RELEASE_CACHE", str(folder / "cache"))
    return tools


def quantized(folder: Path) -> list[str]:
    """Types that llama-quantize really made, in order."""
    calls = [line.split() for line in (folder / "calls").read_text().splitlines()]
    return [words[-2] for words in calls if "output.gguf" in words and "--pure" not in words]


def test_a_kill_in_the_third_quant_keeps_the_first_two(
    folder: Path, toolchain: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tools = wrapped(toolchain, tmp_path, monkeypatch, fatal="Q3_K_M")
    write_manifest(folder, "[Q6_K, Q5_K_M, Q3_K_M, Q2_K]")
    (tmp_path / "fuse").touch()
    with pytest.raises(UnavailableError, match=r"killed by signal 9: \[   7/  90\] blk\.0\.attn_q\.weight") as caught:
        context(folder, llama_cpp=tools, memory=1)
    assert "\n" not in str(caught.value)
    assert sorted(digests(folder / "work" / "gguf")) == ["x-Q5_K_M.gguf", "x-Q6_K.gguf"]
    assert quantized(tmp_path) == ["Q6_K", "Q5_K_M", "Q3_K_M"]
    found, results = context(folder, llama_cpp=tools, memory=1)
    assert quantized(tmp_path)[3:] == ["Q3_K_M", "Q2_K"], "the first two are not made again"
    assert "Q6_K, Q5_K_M made by an earlier run; 2 to go" in found.progress.notes  # type: ignore[attr-defined]
    assert list(json.loads((folder / "work" / "quants.json").read_text())) == ["Q2_K", "Q3_K_M", "Q5_K_M", "Q6_K"]
    write_manifest(folder, "[Q6_K, Q3_K_M]")
    context(folder, llama_cpp=tools, memory=1)
    assert len(quantized(tmp_path)) == 5, "leaving some out makes none again"
    assert sorted(digests(folder / "work" / "gguf")) == ["x-Q3_K_M.gguf", "x-Q6_K.gguf"]
    assert results[-1].detail.count(";") == 3
    (folder / "work" / "gguf" / "x-Q6_K.gguf").write_bytes(b"damaged")
    context(folder, llama_cpp=tools, memory=1)
    assert quantized(tmp_path)[5:] == ["Q6_K"]


def test_the_converted_model_may_be_deleted_once_its_quants_are_made(folder: Path):
    context(folder)
    shutil.rmtree(folder / "work" / "gguf-source")
    _, results = context(folder)
    assert {each.stage: each.status for each in results}["convert"] == "up to date"
    assert not (folder / "work" / "gguf-source").exists()
    write_manifest(folder, "[Q6_K, Q8_0]")
    _, results = context(folder)
    assert [each.stage for each in results if each.status == "done"][-2:] == ["convert", "quantize"]
    assert sorted(digests(folder / "work" / "gguf")) == ["x-Q6_K.gguf", "x-Q8_0.gguf"]


def test_bytes_do_not_depend_on_how_many_run_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("release.gguf.side_by_side.os.sched_getaffinity", lambda _pid: range(4), raising=False)
    write_manifest(folder, "[Q6_K, Q4_K_M, Q3_K_S, Q8_0]")
    alone, _ = context(folder, memory=1)
    first, record = digests(folder / "work" / "gguf"), (folder / "work" / "quants.json").read_bytes()
    assert not [note for note in alone.progress.notes if "at a time" in note]  # type: ignore[attr-defined]
    for path in (folder / "work" / "records").glob("quantize*.json"):
        path.unlink()
    together, _ = context(folder, memory=1 << 40)
    assert [note for note in together.progress.notes if note.startswith("quantizing 4 at a time, each in at most 0.3 GiB")]  # type: ignore[attr-defined]
    assert digests(folder / "work" / "gguf") == first
    assert (folder / "work" / "quants.json").read_bytes() == record


def test_two_quants_of_the_same_tensor_data_are_an_error(folder: Path):
    write_manifest(folder, "[Q4_K_M, {name: Q4_K_XL, type: Q4_K_M}]")
    with pytest.raises(CheckFailedError, match="quants Q4_K_M and Q4_K_XL hold the same tensor data; drop one"):
        context(folder)


def test_a_large_quant_is_published_in_shards(folder: Path):
    write_manifest(folder, "[Q6_K, Q2_K]", max_shard_size="3MB", quality=QUALITY)
    found, _ = context(folder, until="quality")
    shards = [path.name for path in quant_files(found, "Q6_K")]
    assert len(shards) > 1
    assert shards == [f"x-Q6_K-{number:05d}-of-{len(shards):05d}.gguf" for number in range(1, len(shards) + 1)]
    assert model_file(found, "Q6_K").name == shards[0]
    on_disk = digests(folder / "work" / "gguf")
    assert set(shards) < set(on_disk)
    assert "x-Q6_K.gguf" not in on_disk
    summary = json.loads((folder / "work" / "quants.json").read_text())["Q6_K"]
    assert {file["name"]: file["sha256"] for file in summary["files"]} == {name: on_disk[name] for name in shards}
    assert summary["file_size"] == sum((folder / "work" / "gguf" / name).stat().st_size for name in shards)
    lock = draft_lock(found)
    assert {path.removeprefix("gguf/") for path in lock.outputs if path.startswith("gguf/")} == set(on_disk)
    assert lock.outputs[f"gguf/{shards[1]}"].tensor_data == summary["files"][1]["tensor_digest"]
    quality = read_quality(folder / "work" / "quality.json")
    assert quality.quants["Q6_K"].sha256 == model_digest(found, "Q6_K")
    assert quality.quants["Q6_K"].size == summary["file_size"]
    write_manifest(folder, "[Q6_K, Q2_K]", max_shard_size="1GB")
    context(folder)
    assert "x-Q6_K.gguf" in digests(folder / "work" / "gguf")
    assert not set(shards) & set(digests(folder / "work" / "gguf"))


def test_quality_is_evidence_and_goes_on_after_a_kill(folder: Path, monkeypatch: pytest.MonkeyPatch):
    write_manifest(folder, "[Q6_K, Q2_K]", quality=QUALITY)
    from release.stages import quality as stage

    measured: list[str] = []
    real = stage.compare_quant

    def compare(*arguments: Any, title: str, **rest: Any) -> Any:
        if title == "comparing Q2_K" and not measured[1:]:
            measured.append("killed")
            raise UnavailableError("llama-perplexity was killed by signal 9")
        measured.append(title)
        return real(*arguments, title=title, **rest)

    monkeypatch.setattr(stage, "compare_quant", compare)
    with pytest.raises(UnavailableError, match="comparing with the unquantized model: llama-perplexity was killed"):
        context(folder, until="quality")
    assert not (folder / "work" / "quality.json").exists()
    monkeypatch.setattr(stage, "predict", lambda *_arguments, **_rest: pytest.fail("the predictions were there"))
    found, results = context(folder, until="quality")
    assert measured == ["comparing Q6_K", "killed", "comparing Q2_K"]
    quality = read_quality(folder / "work" / "quality.json")
    assert results[-1].detail.startswith("Q6_K: KL divergence 0.")
    assert quality.quants["Q6_K"].divergence.kl_divergence.value < quality.quants["Q2_K"].divergence.kl_divergence.value
    assert quality.source.sha256 == digests(folder / "work" / "gguf-source")["x-bf16.gguf"]
    assert quality.text.sha256 == sha256_file(folder / "tiny" / "calibration.txt")
    assert quality.bit_exact == found.self_test.bit_exact
    assert not (folder / "work" / "quality").exists(), "the predictions are gigabytes on a real model"
    assert draft_lock(found).outputs["quality.json"].sha256 == sha256_file(folder / "work" / "quality.json")
    again = run_pipeline(found)
    assert again[-1].status == "up to date"
    write_manifest(folder, "[Q6_K, Q2_K]")
    found, results = context(folder, until="quality")
    assert results[-1].status == "skipped"
    assert "quality.json" not in draft_lock(found).outputs


def test_a_patched_converter_converts_again_and_explains_a_difference(folder: Path, toolchain: Toolchain, tmp_path: Path):
    """The script is a front end; what converts lies beside it."""
    source = tmp_path / "source"
    for part in ("conversion", "gguf-py"):
        shutil.copytree(toolchain.converter().parent / part, source / part)
    shutil.copy(toolchain.converter(), source)
    (tmp_path / "bin").mkdir()
    for name in toolchain.binaries:
        (tmp_path / "bin" / name).symlink_to(toolchain.binary(name))
    first, results = context(folder, until="convert", llama_cpp=tmp_path)
    assert results[-1].status == "up to date", "the same code in another place"
    (source / "conversion" / "gemma.py").write_text((source / "conversion" / "gemma.py").read_text() + "# patched\n")
    patched, results = context(folder, until="quantize", llama_cpp=tmp_path)
    assert {each.stage: each.status for each in results}["convert"] == "done"
    tools = draft_lock(patched).inputs.tools["converter"]
    assert tools == patched.toolchain.converter_code != first.toolchain.converter_code == toolchain.converter_code
    made_with = draft_lock(patched).outputs["gguf/x-Q6_K.gguf"].made_with
    assert made_with is not None
    assert made_with["converter"] == tools


def test_no_imatrix_is_a_release_too(folder: Path):
    (folder / "x.yaml").write_text("schema: moe-release/v1\nname: x\nbase: {path: tiny/model}\ngguf: {quants: [Q6_K]}\n")
    found, results = context(folder)
    assert {each.stage: each.detail for each in results}["calibrate"] == "the manifest asks for no imatrix"
    assert not [path for path in draft_lock(found).outputs if path.startswith("imatrix/")]


def copied_imatrix(folder: Path, *, unreached: dict[str, list[int]] | None = None, rename: str = "") -> Path:
    """A copy of the imatrix that was computed, in which some experts were not reached or all tensors have other names."""
    path = folder / "mine.gguf"
    data = bytearray((folder / "work" / "imatrix" / "x-imatrix.gguf").read_bytes())
    places = {tensor.name: tensor.offset for tensor in read_header(folder / "work" / "imatrix" / "x-imatrix.gguf").tensors}
    for name, experts in (unreached or {}).items():
        for expert in experts:
            start = places[f"{name}.counts"] + 4 * expert
            data[start : start + 4] = bytes(4)
    path.write_bytes(bytes(data).replace(b"blk.", rename.encode()) if rename else bytes(data))
    return path


WRONG_IMATRICES = {
    "other names": "mine.gguf: has an entry for 'lay.0.attn_k.weight', which the model does not have; it was made on another",
    "other sizes": r"the entry for 'blk.0.attn_q.weight' is 4 × 1, the model's tensor wants 256 × 1; it was made on another",
    "other experts": r"the entry for 'blk.1.ffn_down_exps.weight' is 48 × 3, the model's tensor wants 48 × 16",
    "none of experts": r"has no entry for 'blk.0.ffn_down_exps.weight' \(8 tensors of experts\)",
}


@pytest.mark.parametrize("case", WRONG_IMATRICES)
def test_an_imatrix_of_another_model_is_refused_and_not_passed_over(folder: Path, case: str):
    if case == "other names":
        copied_imatrix(folder, rename="lay.")
    elif case == "other sizes":
        write_imatrix(folder / "mine.gguf", {"blk.0.attn_q.weight": [640.0]})
    elif case == "other experts":
        write_imatrix(folder / "mine.gguf", {"blk.1.ffn_down_exps.weight": [1.0] * 3}, columns=48)
    else:
        write_imatrix(folder / "mine.gguf", {"blk.0.attn_q.weight": [640.0]}, columns=256)
    write_manifest(folder, "[Q6_K]", imatrix="{file: {path: mine.gguf}}")
    with pytest.raises(InputError, match=WRONG_IMATRICES[case]) as caught:
        context(folder, until="calibrate")
    assert "\n" not in str(caught.value)


MIXES = {
    "blk.0.ffn_gate.weight=Q8_0\nblk.0.ffn_gat_up_exps.weight=Q8_0\n": r"mix.txt:2: the model has no tensor that matches",
    "blk.9.ffn_gate.weight=Q8_0\n": r"mix.txt:1: the model has no tensor that matches",
}


@pytest.mark.parametrize("mix", MIXES)
def test_a_mix_for_another_model_is_found_before_any_quant_is_made(folder: Path, mix: str):
    (folder / "mix.txt").write_text(mix)
    write_manifest(folder, "[Q4_K_M, {name: CD-Q6_K, type: Q6_K, tensor_types: {path: mix.txt}}]")
    with pytest.raises(InputError, match=MIXES[mix]):
        context(folder)
    assert not (folder / "work" / "gguf").exists()
    (folder / "work" / "records" / "calibrate.json").unlink()
    with pytest.raises(InputError, match=MIXES[mix]):
        context(folder, until="calibrate")


def test_a_pinned_imatrix_is_used_as_it_is_and_its_gaps_are_told(folder: Path):
    before = read_imatrix(copied_imatrix(folder))
    assert not {1, 3} & {*before.unreached.get("blk.0.ffn_down_exps.weight", ())}
    pinned = copied_imatrix(folder, unreached={"blk.0.ffn_down_exps.weight": [1, 3]})
    digest = sha256_file(pinned)
    write_manifest(folder, "[Q6_K]", imatrix=f"{{file: {{path: mine.gguf, sha256: {digest}}}}}")
    found, results = context(folder, until="calibrate")
    unreached = f"{before.unreached_experts + 2} experts"
    assert results[-1].detail == f"pinned imatrix, 4 chunks of 128 tokens, {unreached} never reached"
    assert f"the pinned imatrix never reached {unreached}" in found.progress.notes  # type: ignore[attr-defined]
    assert digests(folder / "work" / "imatrix") == {"x-imatrix.gguf": digest}
    shutil.copy(folder / "work" / "gguf-source" / "x-bf16.gguf", folder / "mine.gguf")
    write_manifest(folder, "[Q6_K]", imatrix="{file: {path: mine.gguf}}")
    with pytest.raises(InputError, match="is no imatrix in GGUF form"):
        context(folder, until="calibrate")
    write_manifest(folder, "[Q6_K]", imatrix=f"{{file: {{path: mine.gguf, sha256: {digest}}}}}")
    with pytest.raises(InputError, match="the manifest pins"):
        context(folder, until="calibrate")


@pytest.fixture
def locked(folder: Path) -> Path:
    """A release with a lock beside its manifest."""
    write_manifest(folder, "[Q6_K, Q2_K]", max_shard_size="3MB")
    found, _ = context(folder)
    write_lock(folder / "x.lock.json", draft_lock(found))
    return folder


def verdicts(folder: Path, imatrix: Path | None = None, **options: Any) -> dict[str, str]:
    found, _ = context(folder, until="convert", **options)
    result = {each.file: each.verdict for each in requantize(found, imatrix)}
    assert not (folder / "work" / "requantized").exists()
    return result


def change_lock(folder: Path, name: str, **changes: Any) -> None:
    lock = read_lock(folder / "x.lock.json")
    assert lock is not None
    outputs = {path: file.model_copy(update=changes) if path == name else file for path, file in lock.outputs.items()}
    write_lock(folder / "x.lock.json", lock.model_copy(update={"outputs": outputs}))


def test_quants_made_again_from_the_locked_imatrix_are_good_or_bad(
    locked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    files = sorted(digests(locked / "work" / "gguf"))
    shutil.rmtree(locked / "work" / "gguf-source")  # as may be, once the quants are made
    assert verdicts(locked) == dict.fromkeys(files, "GOOD")
    published = tmp_path / "published.gguf"
    shutil.move(locked / "work" / "imatrix" / "x-imatrix.gguf", published)
    with pytest.raises(InputError, match="does not exist; give the published imatrix with --imatrix FILE"):
        verdicts(locked)
    assert set(verdicts(locked, published).values()) == {"GOOD"}
    change_lock(locked, "gguf/x-Q2_K.gguf", sha256="0" * 64)
    assert verdicts(locked, published) == {**dict.fromkeys(files, "GOOD"), "x-Q2_K.gguf": "BAD"}
    with pytest.raises(typer.Exit) as caught:
        requantize_manifest(
            *(locked / "x.yaml", locked / "work"), imatrix=published, llama_cpp=None, workers=None, as_json=True
        )
    assert caught.value.exit_code == 1
    shown = json.loads(capsys.readouterr().out)
    assert [each["detail"] for each in shown if each["verdict"] == "BAD"] == ["other metadata around the same tensors"]
    with published.open("ab") as file:
        file.write(b"x")
    with pytest.raises(CheckFailedError, match=r"has SHA-256 .*, the lock has"):
        verdicts(locked, published)
    (locked / "x.lock.json").unlink()
    with pytest.raises(InputError, match="there is no lock"):
        verdicts(locked, published)


def test_a_toolchain_that_is_not_bit_exact_explains_a_difference(locked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    change_lock(locked, "gguf/x-Q2_K.gguf", sha256="0" * 64, made_with={"llama.cpp": "f" * 40})
    assert verdicts(locked)["x-Q2_K.gguf"] == "NOT BIT-EXACT"
    change_lock(locked, "gguf/x-Q2_K.gguf", made_with={"converter": "f" * 64})
    assert verdicts(locked)["x-Q2_K.gguf"] == "NOT BIT-EXACT"
    change_lock(locked, "gguf/x-Q2_K.gguf", made_with={})
    assert verdicts(locked)["x-Q2_K.gguf"] == "BAD"
    monkeypatch.setattr("release.gguf.golden.cache_folder", lambda: tmp_path / "cache")  # nothing is remembered
    monkeypatch.setattr("release.gguf.golden.golden_digests", lambda *_arguments, **_rest: {})
    found, _ = context(locked, until="convert")
    assert draft_lock(found, stages=("quantize",)).inputs.tools["golden self-test"] == "not bit-exact"
    assert {each.verdict for each in requantize(found) if each.quant == "Q2_K"} == {"NOT BIT-EXACT"}
    assert {each.verdict for each in requantize(found) if each.quant == "Q6_K"} == {"GOOD"}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"max_shard_size": "10kB"}, "max_shard_size"),
        ({"memory": "lots"}, "memory"),
        ({"quality": "{text: {path: none.txt}}"}, "none.txt does not exist"),
        ({"quality": "{text: {path: tiny/calibration.txt}, chunks: 2, context: 64}"}, "under 100 tokens"),
        ({"quality": "{text: {path: tiny/calibration.txt}, contexts: 64}"}, "contexts"),
        (
            {"quality": "{text: {path: tiny/calibration.txt}, context: 51200}"},
            "the quality text has .*, two chunks need",
        ),
        (
            {"imatrix": "{text: {path: tiny/calibration.txt}, context: 51200}"},
            "the calibration text has .*, two chunks",
        ),
    ],
)
def test_wrong_settings_are_found_before_any_work(folder: Path, more: dict[str, str], expected: str):
    write_manifest(folder, **more)
    with pytest.raises(MoeReleaseError, match=expected) as caught:
        context(folder, until="preflight")
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
