"""Cuts in shards, and cuts of bases that are split: against llama-gguf-split, and against gguf-py's own splits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from pruner.drop_map import DropMap
from pruner.errors import CheckFailedError, InputError
from pruner.files import sha256_file
from release.gguf.cut import CutGguf, cut, partial_files
from release.gguf.cut_plan import CutPlan, plan_cut
from release.gguf.cut_proof import planned_digests, prove_cut
from release.gguf.located import locate
from release.gguf.reader import read_header
from release.gguf.shards import MOST_PARTS, all_shards, shard_names
from release.gguf.split_plan import split_plan
from release.gguf.toolchain import Toolchain
from tests.hostile import assert_read_or_refused
from tests.release.gguf.moe_gguf import (
    BASE_NAMES,
    DROP,
    EXPERTS,
    KEEP,
    Arrays,
    arrays_of,
    label_of,
    sliced,
    write_moe,
    write_split_moe,
)

CAP = 1_999_999
SHARDS = 3


def large_arrays(before: int = 0) -> Arrays:
    """Tensors of a base whose cut takes three shards of 1 MB; `before` are rows of a first tensor."""
    numbers = np.random.default_rng(5)
    arrays = arrays_of("gemma4", (0, 1, 2))
    if before:
        arrays["token_embd.weight"] = (numbers.standard_normal((before, 250), dtype=np.float32), None)
    for layer in range(8):
        arrays[f"blk.{layer}.attn_q.weight"] = (numbers.standard_normal((71, 1001), dtype=np.float32), None)
    return arrays


def large_pair(folder: Path, *, before: int = 0, **options: Any) -> tuple[Path, Path]:
    """A base of `large_arrays`, and the one that a cut must equal."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = large_arrays(before)
    base = write_moe(folder / "base-Q8_0.gguf", "gemma4", arrays, experts=EXPERTS, names=BASE_NAMES, **options)
    kept = sliced(arrays, KEEP)
    names = {"general.name": "cut", "general.author": "someone", "general.size_label": label_of(kept)}
    return base, write_moe(folder / "expected.gguf", "gemma4", kept, experts=4, names=names, **options)


def planned(base: Path) -> CutPlan:
    return plan_cut(locate(base), DropMap(DROP), name="cut", where="map")


def run(base: Path, out: Path, max_bytes: int | None = CAP, **options: Any) -> CutGguf:
    found = locate(base)
    return cut(found, plan_cut(found, DropMap(DROP), name="cut", where="map"), out, max_bytes=max_bytes, **options)


def tool(toolchain: Toolchain, folder: Path, *words: str) -> None:
    subprocess.run([toolchain.binary("llama-gguf-split"), *words], cwd=folder, check=True, capture_output=True)


def split_by_gguf_py(folder: Path) -> Path:
    """The base of `large_pair` as gguf-py splits it while it writes; the first part."""
    large_pair(folder / "whole")
    return write_split_moe(folder / "base-Q8_0.gguf", large_arrays(), experts=EXPERTS, tensors=12)[0]


@pytest.mark.llama
@pytest.mark.parametrize("max_bytes", [1_000_000, CAP, 2_000_000])
def test_shards_are_the_bytes_of_llama_gguf_split(toolchain: Toolchain, tmp_path: Path, max_bytes: int) -> None:
    base, expected = large_pair(tmp_path)
    megabytes = max_bytes // 10**6
    tool(toolchain, tmp_path, "--split", "--split-max-size", f"{megabytes}M", expected.name, "tool")
    result = run(base, tmp_path / "cut" / "cut-Q8_0.gguf", max_bytes)
    theirs = sorted(tmp_path.glob("tool-*.gguf"))
    assert len(theirs) == (SHARDS if megabytes == 1 else 2)
    names = shard_names("cut-Q8_0", len(theirs))
    assert [file.name for file in result.files] == names == sorted(path.name for path in (tmp_path / "cut").iterdir())
    for file, theirs_of in zip(result.files, theirs, strict=True):
        ours = tmp_path / "cut" / file.name
        assert ours.read_bytes() == theirs_of.read_bytes()
        assert (file.sha256, file.size) == (sha256_file(ours), ours.stat().st_size)
    tool(toolchain, tmp_path, "--merge", f"cut/{names[0]}", "merged.gguf")
    assert [each.name for each in read_header(tmp_path / "merged.gguf").tensors] == [
        each.name for each in read_header(expected).tensors
    ]


@pytest.mark.llama
def test_a_base_that_the_tool_split_or_merged_is_the_same_base(toolchain: Toolchain, tmp_path: Path) -> None:
    base, expected = large_pair(tmp_path)
    tool(toolchain, tmp_path, "--split", "--split-max-size", "1M", base.name, "split")
    tool(toolchain, tmp_path, "--merge", next(tmp_path.glob("split-00001*")).name, "merged.gguf")
    for number, source in enumerate((next(tmp_path.glob("split-00001*")), tmp_path / "merged.gguf")):
        run(source, tmp_path / f"cut{number}.gguf", None)
        assert (tmp_path / f"cut{number}.gguf").read_bytes() == expected.read_bytes()
        assert prove_cut(locate(expected), locate(source)).good


def test_a_base_in_parts_is_cut_and_proved_as_one(tmp_path: Path) -> None:
    base, expected = split_by_gguf_py(tmp_path), tmp_path / "whole" / "expected.gguf"
    assert len(locate(base).parts) > 2
    pins = [sha256_file(part) for part in sorted(tmp_path.glob("base-Q8_0-*"))]
    run(base, tmp_path / "one.gguf", None, pinned=pins)
    assert (tmp_path / "one.gguf").read_bytes() == expected.read_bytes()
    result = run(base, tmp_path / "cut.gguf", pinned=pins)
    assert [file.sha256 for file in result.files] == planned_digests(split_plan(planned(base), CAP), locate(base), pinned=pins)
    first = tmp_path / result.files[0].name
    for each in (base, tmp_path / "whole" / "base-Q8_0.gguf"):
        proof = prove_cut(locate(first), locate(each))
        assert proof.good
        assert [verdict.name for verdict in proof.verdicts] == [file.name for file in result.files]
    with pytest.raises(CheckFailedError, match=r"base-Q8_0-00002-of-\d+\.gguf: has SHA-256 .* use the pinned base"):
        run(base, tmp_path / "other" / "cut.gguf", pinned=[pins[0], "0" * 64, *pins[2:]])
    assert not list((tmp_path / "other").iterdir())
    with pytest.raises(InputError, match=rf"1 digest for {len(pins)} files; give one for each, in order"):
        run(base, tmp_path / "other" / "cut.gguf", pinned=pins[:1])


def test_what_the_tool_does_not_make_well_is_sound_here(tmp_path: Path) -> None:
    base, _ = large_pair(tmp_path / "first", before=2000)  # a first tensor of 2 MB
    result = run(base, tmp_path / "first" / "cut.gguf", 10**6)
    first = read_header(tmp_path / "first" / result.files[0].name)
    assert [tensor.name for tensor in first.tensors] == ["token_embd.weight"]
    base, expected = large_pair(tmp_path / "aligned", alignment=256)
    result = run(base, tmp_path / "aligned" / "cut.gguf", 10**6)
    joined, whole = locate(tmp_path / "aligned" / result.files[0].name), gguf.GGUFReader(expected)
    assert {part.header.alignment for part in joined.parts} == {256}
    for tensor, theirs in zip(joined.header.tensors, whole.tensors, strict=True):
        assert joined.source.read(joined.file_of(tensor), tensor.offset, tensor.size) == theirs.data.tobytes()


def test_a_damaged_shard_is_bad_with_its_name_tensor_and_expert(tmp_path: Path) -> None:
    base, _ = large_pair(tmp_path)
    names = [file.name for file in run(base, tmp_path / "cut.gguf").files]
    first = locate(tmp_path / names[0])
    place = next(each for each in first.header.tensors if each.name == "blk.1.ffn_down_exps.weight")
    path = tmp_path / first.file_of(place)
    data = bytearray(path.read_bytes())
    data[place.offset + place.size - 1] ^= 1
    path.write_bytes(data)
    reasons = {verdict.name: verdict.reason for verdict in prove_cut(first, locate(base)).verdicts}
    assert reasons.pop(path.name) == ("tensor 'blk.1.ffn_down_exps.weight' differs in expert 3, which is expert 6 of the base")
    assert set(reasons.values()) == {None}
    other = prove_cut(first, locate(base), shards=lambda plan: split_plan(plan, None))
    assert {verdict.reason for verdict in other.verdicts} == {"is in 3 files, planned is 1"}


def test_parts_that_are_not_all_there_or_not_of_one_model(tmp_path: Path) -> None:
    base = split_by_gguf_py(tmp_path)
    parts = [tmp_path / name for name in all_shards(base.name)]
    content = [part.read_bytes() for part in parts]

    def refused(path: Path = base) -> str:
        with pytest.raises(InputError) as caught:
            locate(path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert f"is part 2 of {len(parts)} of a split GGUF; give the first, {base.name}" in refused(parts[1])
    (tmp_path / "renamed.gguf").write_bytes(content[0])
    assert f"is one of {len(parts)} parts of a split GGUF, and its name does not say which" in refused(
        tmp_path / "renamed.gguf"
    )
    parts[1].write_bytes(content[2])
    assert f"{parts[1].name}: is not part 2 of {len(parts)}" in refused()
    parts[1].write_bytes(content[1].replace(b"split.tensors.count", b"split.tensors.cOunt"))
    locate(base)  # only the first part's number counts
    parts[1].write_bytes(content[1][:-100])
    assert f"{parts[1].name}: truncated GGUF" in refused()
    parts[1].unlink()
    assert f"{parts[1].name}: " in refused()
    assert f"all {len(parts)} parts of the split GGUF in one folder" in refused()


@pytest.mark.parametrize("name", ["m-00000-of-00002.gguf", "m-00003-of-00002.gguf", f"m-00001-of-{MOST_PARTS + 1:05d}.gguf"])
def test_a_number_that_no_part_has_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(InputError, match="no part of a split GGUF has this number"):
        locate(tmp_path / name)


def test_a_damaged_part_is_read_or_refused(tmp_path: Path) -> None:
    base = split_by_gguf_py(tmp_path)
    part = tmp_path / all_shards(base.name)[1]
    sound = part.read_bytes()
    for place in range(4, read_header(part).data_offset, 5):
        damaged = sound[:place] + bytes([sound[place] ^ 0x41]) + sound[place + 1 :]
        part.write_bytes(damaged)
        assert_read_or_refused(lambda: planned(base), "base-Q8_0", len(damaged))


def test_many_parts_keep_no_more_in_memory_than_one_file_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = split_by_gguf_py(tmp_path)
    assert locate(base).parts[-1].header.kept > locate(base).parts[0].header.kept
    monkeypatch.setattr("release.gguf.reader.MAXIMUM_KEPT", locate(base).parts[-1].header.kept - 1)
    with pytest.raises(InputError, match=rf"{all_shards(base.name)[-1]}: damaged GGUF: its header holds more than 0 MiB"):
        locate(base)


KILLED = """
import os, signal, sys
from pathlib import Path
import release.gguf.cut as cutting
from pruner.drop_map import read_drop_map
from release.gguf.cut_plan import plan_cut
from release.gguf.located import locate
base, drop_map, out, after = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
cutting.SAVED_EVERY = 100_000
written = 0
def die_after(parts, source, original=cutting.read_parts):
    global written
    for block in original(parts, source):
        written += len(block)
        if written > after:
            os.kill(os.getpid(), signal.SIGKILL)
        yield block
cutting.read_parts = die_after
found = locate(base)
cutting.cut(found, plan_cut(found, read_drop_map(drop_map), name="cut", where="map"), out, max_bytes=1_000_000)
"""


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_killed_in_a_shard_the_next_cut_goes_on_from_there(
    tmp_path: Path, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, _ = large_pair(tmp_path)
    (tmp_path / "map.json").write_text(json.dumps({layer: list(ids) for layer, ids in DROP.items()}))
    expected = planned_digests(split_plan(planned(base), CAP), locate(base))
    out, size = tmp_path / "out" / "cut.gguf", sum(each.size for each in split_plan(planned(base), CAP))
    words = [sys.executable, "-c", KILLED, base, tmp_path / "map.json", out, str(int(share * size))]
    assert subprocess.run(words, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert not list(out.parent.glob("[!.]*")), "no shard has its name before all are complete"
    targets = [out.with_name(name) for name in shard_names("cut", SHARDS)]
    notes = [note for target in targets if (note := partial_files(target)[1]).exists()]
    noted = sum(json.loads(note.read_bytes())["bytes"] for note in notes)
    assert noted > 0
    read = 0

    def counted(parts: Any, source: Any, original: Any = sys.modules["release.gguf.cut"].__dict__["read_parts"]) -> Any:
        nonlocal read
        for block in original(parts, source):
            read += len(block)
            yield block

    monkeypatch.setattr("release.gguf.cut.read_parts", counted)
    assert [file.sha256 for file in run(base, out).files] == expected
    assert read == size - noted
    assert sorted(out.parent.iterdir()) == targets


def test_finished_shards_are_kept_by_the_record_and_a_missing_one_is_made_again(tmp_path: Path) -> None:
    base, _ = large_pair(tmp_path)
    out, record = tmp_path / "out" / "cut.gguf", tmp_path / "record.json"
    pins = [sha256_file(base)]
    first = run(base, out, record=record, pinned=pins)
    paths = [out.with_name(file.name) for file in first.files]
    written = [path.stat().st_mtime_ns for path in paths]
    assert run(base, out, record=record, pinned=pins) == first
    assert [path.stat().st_mtime_ns for path in paths] == written
    paths[1].unlink()
    assert run(base, out, record=record, pinned=pins) == first
    assert [path.stat().st_mtime_ns for path in paths][::2] == written[::2]
    with pytest.raises(InputError, match=r"cut-00001-of-00003\.gguf: already exists"):
        run(base, out)


def test_a_disk_that_is_full_in_the_second_shard_leaves_nothing(
    tmp_path: Path, expect_full_disk: Callable[[str, Callable[[Path], object]], None]
) -> None:
    base, _ = large_pair(tmp_path)
    expect_full_disk("1500k", lambda out: run(base, out))


def test_more_shards_than_anyone_would_load_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("release.gguf.cut.MOST_PARTS", 2)
    base, _ = large_pair(tmp_path)
    with pytest.raises(InputError, match="would be 3 shards; let a shard be larger, so that they are 2 at most"):
        run(base, tmp_path / "out" / "cut.gguf")
    assert not (tmp_path / "out").exists()


def command(*words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", "from release.cli import main; main()", *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done


def test_the_command_line_cuts_and_proves_shards(tmp_path: Path) -> None:
    base = split_by_gguf_py(tmp_path)
    (tmp_path / "map.json").write_text(json.dumps({layer: list(ids) for layer, ids in DROP.items()}))
    pins = [word for part in all_shards(base.name) for word in ("--sha256", sha256_file(tmp_path / part))]
    words = ("gguf", "cut", base, tmp_path / "map.json", tmp_path / "cut-Q8_0.gguf", "--max-shard-size", "1MB", *pins)
    names = shard_names("cut-Q8_0", SHARDS)
    assert command(*words).stdout.splitlines() == [f"{sha256_file(tmp_path / name)}  {name}" for name in names]
    proved = command("prove", tmp_path / names[0], "--base", base).stdout
    assert [line.split()[1] for line in proved.splitlines() if line.startswith("GOOD")] == names
    assert "already exists" in command(*words, code=2).stderr
    assert "give the first" in command("prove", tmp_path / names[1], "--base", base, code=2).stderr
    assert read_header(tmp_path / names[0]).value("general.name") == "cut"
