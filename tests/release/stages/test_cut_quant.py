"""Releases whose quants are cut from the base's GGUF: no llama.cpp, no torch, and cards that say where they come from."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from pruner.errors import CheckFailedError, InputError
from pruner.files import sha256_file
from release.actions.rehearsal import outlook
from release.commands.pipeline import check
from release.context import Context, Options
from release.gguf.reader import read_header
from release.hub.endpoint import HubTarget
from release.hub.local import LocalHub
from release.hub.remote import hub_api
from release.manifest import Manifest, load_manifest
from release.stages.preflight import check_inputs
from release.stages.publication import repositories
from release.stages.publish import publication_plan
from release.stages.quant_recipes import check_recipes
from release.stages.tags import require_tags
from tests.digests import spoil_lock
from tests.release.gguf.moe_gguf import BASE_NAMES, arrays_of, sliced, write_moe, write_split_moe
from tests.release.gguf.test_gguf_imatrix import write_imatrix

COMMAND = [sys.executable, "-c", "from release.cli import main; main()"]
KEEP = {0: (0, 1, 2, 3), 1: (4, 5, 6, 15), 2: (0, 5, 10, 15), 3: (12, 13, 14, 15)}
MANIFEST = """schema: moe-release/v1
name: cut-4e
base: {{path: model, name: tiny-16e}}
prune: {{experts: 4, drop_map: {{path: map.json}}}}
weights: {{max_shard_size: 1MiB}}
gguf: {{quants: [{{name: Q8_0, from: {{path: base-Q8_0.gguf, sha256: {sha256}}}}}]}}
card: {{license: apache-2.0}}
publish: {{weights: org/cut-4e, gguf: org/cut-4e-GGUF}}
"""


@pytest.fixture
def manifest(tmp_path: Path, tiny_model: Path) -> Path:
    """The tiny model with a pinned map, and a GGUF that stands for its Q8_0."""
    folder = tmp_path / "manifests"
    shutil.copytree(tiny_model, folder / "model")
    drop = {str(layer): sorted({*range(16)} - {*kept}) for layer, kept in KEEP.items()}
    (folder / "map.json").write_text(json.dumps(drop))
    arrays = arrays_of("gemma4", (0, 1, 2, 3), experts=16)
    base = write_moe(folder / "base-Q8_0.gguf", "gemma4", arrays, experts=16, names=BASE_NAMES, blocks=4)
    (folder / "m.yaml").write_text(MANIFEST.format(sha256=sha256_file(base)))
    return folder / "m.yaml"


def cut(manifest: Path, *words: str, until: str = "lock", code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
    """`moe-release cut` where no llama.cpp can be found."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MOE_RELEASE")}
    nowhere = str(manifest.parent / "nowhere")
    environment |= {"MOE_RELEASE_LLAMA_CPP": nowhere, "MOE_RELEASE_CACHE": nowhere, **more}
    options = ["--work", manifest.parent / "work", "--until", until, *words]
    done = subprocess.run(
        [*COMMAND, "cut", *map(str, [manifest, *options])], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == code, done.stderr
    return done


def test_a_release_of_cut_quants_needs_no_llama_cpp(manifest: Path) -> None:
    output = json.loads(cut(manifest, "--json").stdout)
    stages = {each["stage"]: each for each in output["stages"]}
    assert stages["convert"]["detail"] == stages["calibrate"]["detail"] == "every quant is cut from the base's GGUF"
    assert stages["quantize"]["status"] == "done"
    work = manifest.parent / "work"
    made = work / "gguf" / "cut-4e-Q8_0.gguf"
    kept = sliced(arrays_of("gemma4", (0, 1, 2, 3), experts=16), KEEP)
    reader = gguf.GGUFReader(made)
    for tensor in reader.tensors:
        np.testing.assert_array_equal(np.asarray(tensor.data).ravel(), kept[tensor.name][0].ravel())
    assert read_header(made).value("general.name") == "cut-4e"
    lock: dict[str, Any] = json.loads((manifest.parent / "cut-4e.lock.json").read_bytes())
    entry = lock["outputs"]["gguf/cut-4e-Q8_0.gguf"]
    assert entry["cut_from"] == "base-Q8_0.gguf"
    assert "made_with" not in entry
    assert lock["inputs"]["files"]["base-Q8_0.gguf"]["sha256"] == sha256_file(manifest.parent / "base-Q8_0.gguf")
    assert "llama.cpp" not in lock["inputs"]["tools"]
    card = (work / "card" / "README.gguf.md").read_text()
    assert "cut from `base-Q8_0.gguf` |" in card
    claims = json.loads((work / "card" / "claims.json").read_bytes())
    assert claims["quants.0.cut_from"]["shown"] == "base-Q8_0.gguf"
    again = json.loads(cut(manifest, "--json").stdout)
    assert {each["status"] for each in again["stages"] if each["stage"] in ("quantize", "card")} == {"up to date"}


def with_imatrix(manifest: Path) -> None:
    """Let the base's GGUF say that it was quantized with an imatrix."""
    path = manifest.parent / "base-Q8_0.gguf"
    numbers = {"general.author": "someone", "quantize.imatrix.file": "theirs.dat", **BASE_NAMES}
    arrays = arrays_of("gemma4", (0, 1, 2, 3), experts=16)
    write_moe(path, "gemma4", arrays, experts=16, names=numbers, blocks=4)
    manifest.write_text(MANIFEST.format(sha256=sha256_file(path)))


def test_the_card_says_that_the_base_had_an_imatrix(manifest: Path) -> None:
    with_imatrix(manifest)
    cut(manifest)
    card = (manifest.parent / "work" / "card" / "README.gguf.md").read_text()
    assert "cut from `base-Q8_0.gguf`, which was made with an imatrix of the base" in card


def test_a_base_that_is_not_the_pinned_one_stops_the_release(manifest: Path) -> None:
    manifest.write_text(MANIFEST.format(sha256="f" * 64))
    done = cut(manifest, code=1)
    assert "has SHA-256" in done.stderr
    assert not list((manifest.parent / "work" / "gguf").glob("*"))


def test_what_a_killed_run_left_is_kept_and_another_quant_is_not(manifest: Path) -> None:
    cut(manifest)
    folder = manifest.parent / "work" / "gguf"
    written = (folder / "cut-4e-Q8_0.gguf").stat().st_mtime_ns
    (folder / "cut-4e-Q2_K.gguf").write_bytes(b"of an older manifest")
    (manifest.parent / "work" / "records" / "quantize.json").unlink()
    cut(manifest)
    assert [path.name for path in folder.iterdir()] == ["cut-4e-Q8_0.gguf"]
    assert (folder / "cut-4e-Q8_0.gguf").stat().st_mtime_ns == written


def test_an_unusable_base_is_found_by_check_and_before_any_work(manifest: Path) -> None:
    path = manifest.parent / "base-Q8_0.gguf"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match=r"base-Q8_0\.gguf: truncated GGUF"):
        check_inputs(load_manifest(manifest))
    assert "truncated GGUF" in cut(manifest, code=2).stderr
    assert not (manifest.parent / "work" / "weights").exists()
    path.unlink()
    with pytest.raises(InputError, match="does not exist beside the manifest"):
        check_inputs(load_manifest(manifest))


def verify(manifest: Path, *words: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """`moe-release verify` of the manifest's work folder."""
    options = [manifest, "--work", manifest.parent / "work", *words]
    done = subprocess.run(
        [*COMMAND, "verify", *map(str, options)], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_a_cut_quant_is_cut_again_and_held_against_the_lock(manifest: Path) -> None:
    cut(manifest)
    nowhere = {"MOE_RELEASE_LLAMA_CPP": str(manifest.parent / "nowhere")}
    assert verify(manifest, "--requantize", **nowhere).stdout.startswith("GOOD           cut-4e-Q8_0.gguf  ")
    made = manifest.parent / "work" / "gguf" / "cut-4e-Q8_0.gguf"
    with made.open("ab") as file:
        file.write(b"appended")
    damaged = verify(manifest, "--requantize", code=1).stdout
    assert damaged.startswith("BAD            cut-4e-Q8_0.gguf  the file in the work folder has SHA-256 ")
    made.unlink()
    assert verify(manifest, "--requantize").stdout.startswith("GOOD")
    lock = manifest.parent / "cut-4e.lock.json"
    spoil_lock(lock, "gguf/cut-4e-Q8_0.gguf")
    assert "cut from base-Q8_0.gguf it has SHA-256 " in verify(manifest, "--requantize", code=1).stdout
    (manifest.parent / "base-Q8_0.gguf").write_bytes(b"GGUF" + (manifest.parent / "base-Q8_0.gguf").read_bytes()[4:-1] + b"x")
    assert "is pinned; use the pinned base" in verify(manifest, "--requantize", code=1).stderr


def test_a_damaged_quant_is_found_by_verify(manifest: Path) -> None:
    cut(manifest)
    assert "1 file of the quants equal to: build, lock" in verify(manifest).stdout
    made = manifest.parent / "work" / "gguf" / "cut-4e-Q8_0.gguf"
    good = made.read_bytes()
    made.write_bytes(good + b"appended")
    error = verify(manifest, code=1).stderr
    assert "gguf/cut-4e-Q8_0.gguf (changed): the file changed after it was written; run `moe-release quantize` again" in error
    made.unlink()
    assert "gguf/cut-4e-Q8_0.gguf (missing)" in verify(manifest, code=1).stderr
    made.write_bytes(good)
    lock = manifest.parent / "cut-4e.lock.json"
    spoil_lock(lock, "gguf/cut-4e-Q8_0.gguf")
    shown = json.loads(verify(manifest, "--json", code=1).stdout)
    assert shown["quants"] == {"build": [], "lock": [{"path": "gguf/cut-4e-Q8_0.gguf", "kind": "changed"}]}
    assert "1 quant file differs from lock: gguf/cut-4e-Q8_0.gguf (changed)" in verify(manifest, code=1).stderr


def test_an_imatrix_that_nothing_would_use_is_refused(manifest: Path) -> None:
    (manifest.parent / "i.gguf").write_bytes(b"GGUF")
    for target in (str(manifest), "hf://org/name"):
        done = subprocess.run(
            [*COMMAND, "verify", target, "--imatrix", str(manifest.parent / "i.gguf")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert "verify: --imatrix is for MANIFEST --requantize" in done.stderr


WRONG = {
    "both": ("type: Q8_0, from: {path: a.gguf, sha256: %s}", "give either type"),
    "neither": ("tensor_types: {path: t.txt}", "give either type"),
    "types for a cut": ("from: {path: a.gguf, sha256: %s}, tensor_types: {path: t}", "tensor_types is for llama-quantize"),
    "no digest": ("from: {path: a.gguf}", "sha256"),
    "no place": ("from: {sha256: %s}", "give either repo"),
    "a branch": ("from: {repo: o/m, revision: main, file: a.gguf, sha256: %s}", "revision"),
    "no file": ("from: {repo: o/m, revision: a123456789012345678901234567890123456789, sha256: %s}", "needs repo and file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_source_is_refused_with_its_place(manifest: Path, case: str) -> None:
    body, expected = WRONG[case]
    text = manifest.read_text().splitlines()
    line = next(number for number, each in enumerate(text) if each.startswith("gguf:"))
    quant = "{name: Q8_0, " + body.replace("%s", "f" * 64) + "}"
    text[line] = f"gguf: {{quants: [{quant}]}}"
    manifest.write_text("\n".join(text))
    with pytest.raises(InputError, match=expected) as caught:
        load_manifest(manifest)
    assert str(caught.value).startswith(f"{manifest}:6:")
    assert "\n" not in str(caught.value)


def test_an_imatrix_that_no_quant_uses_and_a_cut_without_a_map_are_refused(manifest: Path) -> None:
    text = manifest.read_text()
    manifest.write_text(text.replace("gguf: {", "gguf: {imatrix: {file: {path: i.gguf}}, "))
    with pytest.raises(InputError, match="none would use it"):
        load_manifest(manifest)
    lines = [line for line in text.splitlines() if not line.startswith(("prune", "publish"))]
    manifest.write_text("\n".join(lines))
    with pytest.raises(InputError, match="there is no prune section"):
        load_manifest(manifest)


def test_names_are_checked_against_all_that_is_published(manifest: Path) -> None:
    check_recipes(load_manifest(manifest))
    manifest.write_text(manifest.read_text().replace("name: Q8_0", "name: best"))
    with pytest.raises(InputError, match="quant best: the Hub finds no quant label"):
        check(manifest)


def test_a_label_of_another_type_than_the_bases_file_is_refused(manifest: Path) -> None:
    check(manifest)
    manifest.write_text(manifest.read_text().replace("name: Q8_0", "name: Q6_K"))
    expected = (
        rf"^{manifest}:6:\d+: gguf.quants.0.name: quant Q6_K: the name says Q6_K, and base-Q8_0.gguf is Q8_0; name it Q8_0"
    )
    with pytest.raises(InputError, match=expected):
        check(manifest)
    assert "the name says Q6_K, and base-Q8_0.gguf is Q8_0" in cut(manifest, code=2).stderr


GOOD_MIX = "blk.0.ffn_gate.weight=Q8_0\nblk.0.ffn_down_exps.scale=Q8_0\nblk.1.attn_v.weight=IQ4_XS\n"
BAD_MIXES = {
    GOOD_MIX + "blk.1.attn_k.weight=IQ3_K\n": "mix.txt:4: ggml has no type 'IQ3_K'",
    GOOD_MIX + "blk.1.attn_v.weight=Q6_K\n": "mix.txt:4: 'blk.1.attn_v.weight' stands in line 3 already",
}


@pytest.mark.parametrize("mix", [GOOD_MIX, *BAD_MIXES])
def test_check_reads_the_files_of_types(manifest: Path, mix: str) -> None:
    (manifest.parent / "mix.txt").write_text(mix)
    text = manifest.read_text().splitlines()
    text[5] = "gguf: {quants: [{name: CD-Q6_K, type: Q6_K, tensor_types: {path: mix.txt}}]}"
    manifest.write_text("\n".join(text))
    if mix == GOOD_MIX:
        check(manifest)
        return
    with pytest.raises(InputError, match=BAD_MIXES[mix]):
        check(manifest)


IMATRICES = {
    "old": "is no imatrix in GGUF form",
    "base": "i.gguf is of 16 experts, the pruned model has 4; compute one on the pruned model, or give its text",
    "empty": "i.gguf has no entries; recompute it",
    "good": None,
}


@pytest.mark.parametrize("case", IMATRICES)
def test_check_reads_the_pinned_imatrix(manifest: Path, case: str) -> None:
    path = manifest.parent / "i.gguf"
    experts = {"base": [1.0] * 16, "good": [1.0] * 4}.get(case)
    if case == "old":
        path.write_bytes(b"\x02\0\0\0\x13\0\0\0blk.0.attn_q.weight")
    else:
        write_imatrix(path, {"blk.0.attn_q.weight": [1.0], "blk.0.ffn_down_exps.weight": experts} if experts else {})
    text = manifest.read_text().splitlines()
    text[5] = "gguf: {imatrix: {file: {path: i.gguf}}, quants: [Q6_K]}"
    manifest.write_text("\n".join(text))
    if (expected := IMATRICES[case]) is None:
        check(manifest)
        return
    with pytest.raises(InputError, match=expected):
        check(manifest)


def split_manifest(manifest: Path, cap: str = "1MB") -> list[Path]:
    """Let the base's GGUF be in parts and the cut in shards of 1 MB; the parts."""
    folder = manifest.parent
    (folder / "base-Q8_0.gguf").unlink()
    arrays = arrays_of("gemma4", (0, 1, 2, 3), experts=16)
    for layer in range(4):
        arrays[f"blk.{layer}.attn_q.weight"] = (np.full((100, 1000), layer, dtype=np.float32), None)
    parts = write_split_moe(folder / "base-Q8_0.gguf", arrays, experts=16, blocks=4, tensors=20)
    digests = ", ".join(sha256_file(part) for part in parts)
    text = MANIFEST.format(sha256=f"[{digests}]").replace("base-Q8_0.gguf", parts[0].name)
    manifest.write_text(text.replace("gguf: {", f"gguf: {{max_shard_size: {cap}, "))
    return parts


SHARDS = ["cut-4e-Q8_0-00001-of-00002.gguf", "cut-4e-Q8_0-00002-of-00002.gguf"]


def test_a_cut_that_is_larger_than_a_shard_may_be_is_written_in_shards(manifest: Path) -> None:
    parts = split_manifest(manifest)
    check(manifest)
    cut(manifest)
    work = manifest.parent / "work"
    assert sorted(path.name for path in (work / "gguf").iterdir()) == SHARDS
    lock: dict[str, Any] = json.loads((manifest.parent / "cut-4e.lock.json").read_bytes())
    for name in SHARDS:
        entry = lock["outputs"][f"gguf/{name}"]
        assert (entry["sha256"], entry["cut_from"]) == (sha256_file(work / "gguf" / name), parts[0].name)
    inputs = lock["inputs"]["files"]
    assert {name: inputs[name]["sha256"] for name in inputs if name.startswith("base")} == {
        part.name: sha256_file(part) for part in parts
    }
    kept = sliced(arrays_of("gemma4", (0, 1, 2, 3), experts=16), KEEP)
    tensors = {each.name: each for name in SHARDS for each in gguf.GGUFReader(work / "gguf" / name).tensors}
    for name, (array, _) in kept.items():
        np.testing.assert_array_equal(np.asarray(tensors[name].data).ravel(), array.ravel())
    card = (work / "card" / "README.gguf.md").read_text()
    assert f"`{SHARDS[0]}` (first of 2 shards)" in card
    assert f"cut from `{parts[0].name}` (first of {len(parts)} parts) |" in card
    found = repositories(Context(load_manifest(manifest), work, Options()))[1]
    assert {name for name in found.files if name.endswith(".gguf")} == {*SHARDS}
    assert verify(manifest, "--requantize").stdout.count("GOOD ") == len(SHARDS)
    assert "2 files of the quants equal to: build, lock" in verify(manifest).stdout
    (work / "gguf" / SHARDS[1]).unlink()
    cut(manifest)
    assert sha256_file(work / "gguf" / SHARDS[1]) == lock["outputs"][f"gguf/{SHARDS[1]}"]["sha256"]
    manifest.write_text(manifest.read_text().replace("max_shard_size: 1MB", "max_shard_size: 1GB"))
    (work / "gguf" / f".{SHARDS[0]}.partial").write_bytes(b"of a run that was killed")
    cut(manifest, "--update-lock")
    assert [path.name for path in (work / "gguf").iterdir()] == ["cut-4e-Q8_0.gguf"]


def test_a_part_that_is_missing_or_another_than_the_pinned_one(manifest: Path) -> None:
    parts = split_manifest(manifest)
    text = manifest.read_text()
    manifest.write_text(text.replace(sha256_file(parts[1]), "f" * 64))
    assert f"{parts[1].name}: has SHA-256" in cut(manifest, code=1).stderr
    assert not list((manifest.parent / "work" / "gguf").glob("*"))
    manifest.write_text(text.replace(f"{sha256_file(parts[0])}, ", ""))
    with pytest.raises(InputError, match=rf"sha256: {parts[0].name} is {len(parts)} files, and {len(parts) - 1} digests? "):
        load_manifest(manifest)
    manifest.write_text(text.replace(parts[0].name, parts[1].name))
    with pytest.raises(InputError, match=f"give the first, {parts[0].name}"):
        load_manifest(manifest)
    manifest.write_text(text)
    parts[1].unlink()
    assert f"{parts[1].name}: " in cut(manifest, code=2).stderr


PROJECTOR = "mmproj-base-F16.gguf"


def with_projector(manifest: Path, name: str = PROJECTOR, arch: str = "clip", **changes: str) -> Path:
    """Let the release have a projector of the base."""
    path = manifest.parent / "theirs" / name
    path.parent.mkdir(exist_ok=True)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_type("mmproj")
    writer.add_tensor("v.patch_embd.weight", np.ones((16, 32), dtype=np.float16))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    source = {"path": f"theirs/{name}", "sha256": sha256_file(path), **changes}
    words = ", ".join(f"{key}: {value}" for key, value in source.items())
    manifest.write_text(manifest.read_text().replace("gguf: {", f"gguf: {{mmproj: [{{{words}}}], "))
    return path


def test_a_projector_of_the_base_is_published_unchanged(manifest: Path) -> None:
    path = with_projector(manifest)
    check(manifest)
    cut(manifest)
    work = manifest.parent / "work"
    copied = work / "gguf" / PROJECTOR
    assert copied.read_bytes() == path.read_bytes()
    lock: dict[str, Any] = json.loads((manifest.parent / "cut-4e.lock.json").read_bytes())
    entry = lock["outputs"][f"gguf/{PROJECTOR}"]
    assert entry == {"sha256": sha256_file(path), "size": path.stat().st_size, "copied_from": f"theirs/{PROJECTOR}"}
    assert lock["inputs"]["files"][f"theirs/{PROJECTOR}"]["sha256"] == sha256_file(path)
    card = (work / "card" / "README.gguf.md").read_text()
    assert re.search(rf"`{PROJECTOR}` \([0-9.]+ kB\) is the base.s own projector, unchanged, from `theirs/{PROJECTOR}`", card)
    files = repositories(Context(load_manifest(manifest), work, Options()))[1]
    assert files.digests[PROJECTOR] == sha256_file(path)
    assert "2 files of the quants equal to: build, lock" in verify(manifest).stdout
    copied.write_bytes(b"other")
    assert f"gguf/{PROJECTOR} (changed)" in verify(manifest, code=1).stderr
    copied.unlink()
    assert f"gguf/{PROJECTOR} (missing)" in verify(manifest, code=1).stderr
    cut(manifest, "--skip", "quantize")
    copied.with_name(f".{PROJECTOR}.partial").write_bytes(b"of a run that was killed")
    cut(manifest)
    assert copied.read_bytes() == path.read_bytes()
    assert sorted(each.name for each in copied.parent.iterdir()) == ["cut-4e-Q8_0.gguf", PROJECTOR]
    manifest.write_text(manifest.read_text().replace(sha256_file(path), "f" * 64))
    assert f"{PROJECTOR}: has SHA-256" in cut(manifest, "--update-lock", code=1).stderr
    manifest.write_text(MANIFEST.format(sha256=sha256_file(manifest.parent / "base-Q8_0.gguf")))
    cut(manifest, "--update-lock")
    assert not copied.exists()


PROJECTORS: dict[str, tuple[dict[str, str], str]] = {
    "another architecture": ({"arch": "gemma4"}, "is a GGUF of architecture 'gemma4', and no projector"),
    "a name of a model": ({"name": "base-F16.gguf"}, "a projector is one file that llama.cpp passes over as a model"),
    "a list of digests": ({"sha256": f"[{'a' * 64}, {'a' * 64}]"}, "1 file, and 2 digests are given"),
    "two places": ({"repo": "org/name"}, "give either repo"),
    "no such file": ({"path": "theirs/mmproj-none.gguf"}, "theirs/mmproj-none.gguf does not exist beside the manifest"),
}


@pytest.mark.parametrize("case", PROJECTORS)
def test_what_is_no_projector_is_refused(manifest: Path, case: str) -> None:
    changes, expected = PROJECTORS[case]
    with_projector(manifest, **changes)
    with pytest.raises(InputError, match=expected) as caught:
        check(manifest)
    assert "\n" not in str(caught.value)


RECIPES = {
    "{name: Q8_0, type: Q6_K}": "quant Q8_0: the name says Q8_0, and its type is Q6_K; name it Q6_K, or make it Q8_0",
    "IQ2_XS": "IQ2_XS needs an imatrix; add gguf.imatrix, or choose a K type such as Q2_K",
    "{name: CD-Q6_K, type: iq1_m, tensor_types: {path: t}}": None,
    "{name: CD-Q6_K, type: Q6_K}": None,
}


@pytest.mark.parametrize("quant", RECIPES)
def test_a_recipe_that_cannot_be_what_it_says_is_refused(manifest: Path, quant: str) -> None:
    text = manifest.read_text().splitlines()
    text[5] = f"gguf: {{quants: [{quant}]}}"
    manifest.write_text("\n".join(text))
    if (expected := RECIPES[quant]) is None:
        check_recipes(load_manifest(manifest))
        return
    with pytest.raises(InputError, match=expected) as caught:
        check(manifest)
    assert str(caught.value).startswith(f"{manifest}:6:")


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub 2.4.0's own
def test_a_file_of_others_that_answers_to_a_tag_stops_the_commit(manifest: Path, tmp_path: Path) -> None:
    ggufs = "org/cut-4e-GGUF"
    with LocalHub(tmp_path / "hub") as hub:
        api = hub_api(hub.endpoint, hub.token)
        api.create_repo(ggufs, private=True)
        foreign = {"path_or_fileobj": manifest.parent / "base-Q8_0.gguf", "path_in_repo": "A-model-Q8_0.gguf"}
        api.upload_file(repo_id=ggufs, **foreign)
        words = ("--hub", hub.endpoint, "--skip", "readback")
        error = cut(manifest, *words, until="publish", code=1, **hub.environment()).stderr
        expected = (
            "quant Q8_0: `-hf …:Q8_0` would load A-model-Q8_0.gguf and not cut-4e-Q8_0.gguf; remove A-model-Q8_0.gguf there"
        )
        assert expected in error
        assert not (manifest.parent / "work" / "weights").exists(), "and before anything is built"
        cut(manifest, *words, "--prune-remote", until="publish", **hub.environment())
        assert "A-model-Q8_0.gguf" not in api.list_repo_files(ggufs)
        assert "cut-4e-Q8_0.gguf" in api.list_repo_files(ggufs)
        cut(manifest, *words, until="publish", **hub.environment())
        api.upload_file(repo_id=ggufs, **foreign)  # while a release is being built
        context = Context(load_manifest(manifest), manifest.parent / "work", Options(hub=HubTarget(hub.endpoint, hub.token)))
        plan = publication_plan(context, repositories(context)[1])
        with pytest.raises(CheckFailedError, match=r"would load A-model-Q8_0.*--prune-remote; nothing was committed"):
            require_tags(context, plan)
        foreseen = outlook(context, context.options.hub).problems
        assert any("would load A-model-Q8_0" in problem for problem in foreseen)
        pruned = replace(context, options=replace(context.options, prune_remote=True))
        require_tags(pruned, publication_plan(pruned, repositories(pruned)[1]))


def test_the_schema_names_the_source() -> None:
    schema = Manifest.model_json_schema(by_alias=True)
    assert "from" in schema["$defs"]["Quant"]["properties"]
