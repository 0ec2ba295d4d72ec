"""Plans and cuts of GGUFs of every architecture, without llama.cpp: against what the gguf package writes of sliced arrays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruner.drop_map import DropMap
from pruner.errors import CheckFailedError, InputError
from pruner.files import digest_of, sha256_bytes, sha256_file
from pruner.progress import NoProgress, Unit
from release.gguf.cut import cut, partial_files
from release.gguf.cut_plan import after, length_of, plan_cut, read_parts
from release.gguf.cut_proof import planned_digests, prove_cut
from release.gguf.direct_cut import cut_directly, model_name_of
from release.gguf.experts import MODEL_TYPES
from release.gguf.located import locate
from tests.release.gguf.moe_gguf import (
    BASE_NAMES,
    DROP,
    EXPERTS,
    HIDDEN,
    KEEP,
    LAYOUTS,
    arrays_of,
    base_and_variant,
    label_of,
    sliced,
    write_moe,
)


def run(base: Path, out: Path, drop: dict[str, tuple[int, ...]] = DROP, *, experts: int | None = None, **options: Any) -> Path:
    found = locate(base)
    cut(found, plan_cut(found, DropMap(drop, experts), name="cut", where="map.json"), out, **options)
    return out


def require_refused(base: Path, tmp_path: Path, drop: dict[str, tuple[int, ...]] = DROP, experts: int | None = None) -> str:
    """The line of an InputError, after which nothing stands."""
    (tmp_path / "out").mkdir(exist_ok=True)
    with pytest.raises(InputError) as caught:
        run(base, tmp_path / "out" / "cut.gguf", drop, experts=experts)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").iterdir())
    return str(caught.value)


@pytest.mark.parametrize("arch", LAYOUTS)
def test_every_architecture_is_cut_on_its_expert_axis(tmp_path: Path, arch: str) -> None:
    base, expected = base_and_variant(tmp_path, arch)
    assert run(base, tmp_path / "cut.gguf").read_bytes() == expected.read_bytes()


def test_all_architectures_are_tested() -> None:
    assert set(LAYOUTS) == set(MODEL_TYPES)


@pytest.mark.parametrize("alignment", [64, 4096])
def test_the_bases_alignment_stays(tmp_path: Path, alignment: int) -> None:
    base, expected = base_and_variant(tmp_path, alignment=alignment)
    assert run(base, tmp_path / "cut.gguf").read_bytes() == expected.read_bytes()


def test_the_multi_token_prediction_block_is_a_layer_of_its_own(tmp_path: Path) -> None:
    base, expected = base_and_variant(tmp_path, "qwen3next", numbers={"nextn_predict_layers": 1})
    drop = {"0": DROP["0"], "1": DROP["1"], "mtp": DROP["2"]}
    assert run(base, tmp_path / "cut.gguf", drop).read_bytes() == expected.read_bytes()
    (tmp_path / "other").mkdir()
    without, expected = base_and_variant(tmp_path / "other", "deepseek2")
    lost = {**DROP, "mtp": DROP["2"]}  # DeepSeek's converter leaves the block out
    assert run(without, tmp_path / "lost.gguf", lost).read_bytes() == expected.read_bytes()


def test_whole_expert_groups_go_and_the_header_says_how_many_stay(tmp_path: Path) -> None:
    arrays = arrays_of("deepseek2", (0,))
    groups = {"expert_group_count": 4, "expert_group_used_count": 1}
    base = write_moe(tmp_path / "b.gguf", "deepseek2", arrays, experts=8, names=BASE_NAMES, blocks=1, numbers=groups)
    kept = sliced(arrays, {0: (2, 3, 6, 7)})
    expected = write_moe(
        *(tmp_path / "e.gguf", "deepseek2", kept),
        experts=4,
        names={"general.name": "cut", "general.author": "someone", "general.size_label": label_of(kept)},
        blocks=1,
        numbers={**groups, "expert_group_count": 2},
    )
    assert run(base, tmp_path / "cut.gguf", {"0": (0, 1, 4, 5)}).read_bytes() == expected.read_bytes()
    assert "per expert group" in require_refused(base, tmp_path, {"0": (0, 2, 4, 5)})


@settings(max_examples=25)
@given(data=st.data(), kept=st.integers(2, 7))
def test_any_map_gives_the_sliced_tensors(data: st.DataObject, kept: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("any")
    keep = {layer: sorted(data.draw(st.permutations(range(EXPERTS)))[:kept]) for layer in range(2)}
    arrays = arrays_of("gpt-oss", (0, 1))
    base = write_moe(folder / "base.gguf", "gpt-oss", arrays, experts=EXPERTS, names=BASE_NAMES, blocks=2, tokens=3)
    drop = {str(layer): tuple(sorted({*range(EXPERTS)} - {*ids})) for layer, ids in keep.items()}
    reader = gguf.GGUFReader(run(base, folder / "cut.gguf", drop))
    expected = sliced(arrays, keep)
    assert [each.name for each in reader.tensors] == list(expected)
    for tensor in reader.tensors:
        np.testing.assert_array_equal(np.asarray(tensor.data).ravel(), expected[tensor.name][0].ravel())
    assert prove_cut(locate(folder / "cut.gguf"), locate(base)).good


def test_neighbouring_experts_are_one_range(tmp_path: Path) -> None:
    base, _ = base_and_variant(tmp_path)
    found = locate(base)
    plan = plan_cut(found, DropMap(DROP), name="cut", where="map")
    runs = {each.base.name: len(each.runs) for each in plan.tensors}
    assert runs["blk.0.ffn_down_exps.weight"] == 3  # 0-1, 4, 7
    assert runs["blk.1.ffn_gate_inp.weight"] == 2  # 1-3, 6
    assert runs["token_embd.weight"] == runs["blk.0.ffn_gate_inp.scale"] == 1
    assert plan.size == sum(map(length_of, plan.parts))
    whole = b"".join(read_parts(plan.parts, found.source))
    for skipped in (0, 1, 23, 5000, len(whole) - 1, len(whole)):
        assert b"".join(read_parts(after(plan.parts, skipped), found.source)) == whole[skipped:]
    assert planned_digests([plan], found) == [sha256_file(run(base, tmp_path / "cut.gguf"))]


def test_a_base_without_a_name_gets_one(tmp_path: Path) -> None:
    arrays = arrays_of("olmoe", (0, 1, 2))
    base = write_moe(tmp_path / "b.gguf", "olmoe", arrays, experts=EXPERTS, names={})
    assert locate(run(base, tmp_path / "cut.gguf")).header.value("general.name") == "cut"


@pytest.mark.parametrize(
    ("out", "name"),
    [
        ("gemma-109e-Q6_K.gguf", "gemma-109e"),
        ("a.Q4_K_M.gguf", "a"),
        ("plain.gguf", "plain"),
        ("Q6_K.gguf", "Q6_K"),
        ("q6_k-merge-iq4_xs.gguf", "q6_k-merge"),
        ("m-Q6_K-final.gguf", "m-Q6_K-final"),
    ],
)
def test_the_name_is_that_of_the_file_without_its_label(out: str, name: str) -> None:
    assert model_name_of(Path(out)) == name


def with_tensor(tmp_path: Path, name: str, shape: tuple[int, ...] = (EXPERTS, HIDDEN), arch: str = "gemma4") -> Path:
    arrays = arrays_of(arch, (0, 1, 2))
    arrays[name] = (np.ones(shape, dtype=np.float32), None)
    return write_moe(tmp_path / "odd.gguf", arch, arrays, experts=EXPERTS, names=BASE_NAMES)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("blk.0.ffn_gate.3.weight", (4, HIDDEN), "layout of experts that cannot be cut"),
        ("blk.0.ffn_gate_tid2eid.weight", (4, HIDDEN), "layout of experts that cannot be cut"),
        ("blk.0.ffn_up_chexps.weight", (4, HIDDEN), "layout of experts that cannot be cut"),
        ("blk.0.ffn_norm_exps.weight", (HIDDEN,), "layout of experts that cannot be cut"),
        ("blk.0.ffn_gate_exps.weight", (7, HIDDEN), "not 8 experts on its last axis"),
        ("blk.3.ffn_up_exps.weight", (EXPERTS, 4, HIDDEN), "layer mtp has no router"),
        ("blk.3.ffn_gate_inp.weight", (EXPERTS, HIDDEN), "layer mtp has no experts"),
    ],
)
def test_a_layout_that_nobody_knows_is_refused(tmp_path: Path, name: str, shape: tuple[int, ...], expected: str) -> None:
    assert expected in require_refused(with_tensor(tmp_path, name, shape), tmp_path)


def test_a_map_of_another_model_is_refused(tmp_path: Path) -> None:
    base, _ = base_and_variant(tmp_path)
    assert "made for 128 experts per layer, the base has 8" in require_refused(base, tmp_path, experts=128)
    assert "layer 2 is missing" in require_refused(base, tmp_path, {"0": (1,), "1": (2,)})
    assert "it has no layer 3" in require_refused(base, tmp_path, {**DROP, "3": (0, 1, 2, 3)})
    assert "expert 8 is out of range" in require_refused(base, tmp_path, {**DROP, "0": (0, 1, 2, 8)})
    assert "layers drop between 1 and 4" in require_refused(base, tmp_path, {**DROP, "0": (0,)})
    assert "keeps 1 expert per layer, the router picks 2" in require_refused(
        base, tmp_path, dict.fromkeys("012", tuple(range(7)))
    )


def test_another_kind_of_gguf_is_refused(tmp_path: Path) -> None:
    arrays = arrays_of("qwen3moe", (0, 1, 2))
    other = write_moe(tmp_path / "dbrx.gguf", "dbrx", arrays, experts=EXPERTS, names=BASE_NAMES)
    assert "architecture 'dbrx' is not supported (gemma4, " in require_refused(other, tmp_path)
    dense = gguf.GGUFWriter(tmp_path / "dense.gguf", "llama")
    dense.add_block_count(2)
    dense.add_tensor("token_embd.weight", np.ones((4, 32), dtype=np.float32))
    for step in (dense.write_header_to_file, dense.write_kv_data_to_file, dense.write_tensors_to_file, dense.close):
        step()
    assert "llama.expert_count is missing" in require_refused(tmp_path / "dense.gguf", tmp_path)
    kind = write_moe(tmp_path / "i.gguf", "llama", arrays, experts=EXPERTS, names={}).read_bytes()
    (tmp_path / "i.gguf").write_bytes(kind.replace(b"\x05\0\0\0\0\0\0\0model", b"\x05\0\0\0\0\0\0\0other"))
    assert "general.type is 'other'" in require_refused(tmp_path / "i.gguf", tmp_path)


def test_a_truncated_base_is_refused_at_any_length(tmp_path: Path) -> None:
    base, _ = base_and_variant(tmp_path, tokens=3)
    data = base.read_bytes()
    for length in range(0, len(data) - 32, 997):
        (tmp_path / "t.gguf").write_bytes(data[:length])
        require_refused(tmp_path / "t.gguf", tmp_path)


def test_a_base_that_shrinks_while_it_is_cut_leaves_nothing(tmp_path: Path) -> None:
    base, _ = base_and_variant(tmp_path)
    found = locate(base)
    plan = plan_cut(found, DropMap(DROP), name="cut", where="map")
    os.truncate(base, base.stat().st_size - 5000)
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="truncated"):
        cut(found, plan, tmp_path / "out" / "cut.gguf")
    assert not list((tmp_path / "out").iterdir())


def test_a_wrong_base_leaves_nothing_and_a_target_is_never_overwritten(tmp_path: Path) -> None:
    base, _ = base_and_variant(tmp_path)
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckFailedError, match="use the pinned base"):
        run(base, tmp_path / "out" / "cut.gguf", pinned=["f" * 64])
    assert not list((tmp_path / "out").iterdir())
    run(base, tmp_path / "out" / "cut.gguf", pinned=[sha256_file(base)])
    with pytest.raises(InputError, match="already exists"):
        run(base, tmp_path / "out" / "cut.gguf")


def test_a_finished_cut_is_kept_by_its_record_and_a_damaged_one_is_not(tmp_path: Path) -> None:
    base, expected = base_and_variant(tmp_path)
    out, record = tmp_path / "out" / "cut.gguf", tmp_path / "record.json"
    run(base, out, record=record)
    written = out.stat().st_mtime_ns
    run(base, out, record=record)
    assert out.stat().st_mtime_ns == written
    data = bytearray(out.read_bytes())
    data[-1] ^= 1
    out.write_bytes(data)
    run(base, out, record=record)
    assert out.read_bytes() == expected.read_bytes()
    record.write_text('["no record"]')
    run(base, out, record=record)
    assert out.read_bytes() == expected.read_bytes()


KILLED = """
import os, signal, sys
from pathlib import Path
import release.gguf.cut as cutting
from pruner.drop_map import read_drop_map
from release.gguf.cut_plan import plan_cut
from release.gguf.located import locate
base, drop_map, out, number, after = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
cutting.SAVED_EVERY = 10_000
written = 0
def die_after(parts, source, original=cutting.read_parts):
    global written
    for block in original(parts, source):
        written += len(block)
        if written > after:
            os.kill(os.getpid(), number)
        yield block
cutting.read_parts = die_after
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
found = locate(base)
cutting.cut(found, plan_cut(found, read_drop_map(drop_map), name="cut", where="map"), out)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_killed_in_the_middle_the_next_cut_goes_on_from_there(
    tmp_path: Path, number: signal.Signals, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, expected = base_and_variant(tmp_path, tokens=3)
    (tmp_path / "map.json").write_text(json.dumps({layer: list(ids) for layer, ids in DROP.items()}))
    out, size = tmp_path / "out" / "cut.gguf", expected.stat().st_size
    words = [sys.executable, "-c", KILLED, base, tmp_path / "map.json", out, str(int(number)), str(int(share * size))]
    killed = subprocess.run(words, check=False, capture_output=True)
    assert killed.returncode == (-number if number == signal.SIGKILL else 143), killed.stderr
    assert not out.exists()
    partial, note = partial_files(out)
    noted = json.loads(note.read_bytes())["bytes"] if note.exists() else 0
    assert noted <= partial.stat().st_size
    assert (noted > 0) == (share > 0)
    read = 0

    def counted(parts: Any, source: Any, original: Callable[..., Any] = read_parts) -> Any:
        nonlocal read
        for block in original(parts, source):
            read += len(block)
            yield block

    monkeypatch.setattr("release.gguf.cut.read_parts", counted)
    run(base, out)
    assert out.read_bytes() == expected.read_bytes()
    assert read == size - noted
    assert [path.name for path in out.parent.iterdir()] == ["cut.gguf"]


MEASURED = """
import json, sys
from pathlib import Path
from pruner.drop_map import read_drop_map
from release.gguf.cut import cut
from release.gguf.cut_plan import plan_cut
from release.gguf.cut_proof import prove_cut
from release.gguf.located import locate
base, drop_map, out = map(Path, sys.argv[1:4])
found = locate(base)
cut(found, plan_cut(found, read_drop_map(drop_map), name="cut", where="map"), out, pinned=[sys.argv[4]])
assert prove_cut(locate(out), found).good
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) * 1024)  # ru_maxrss is no use: a child inherits its parent's
"""


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    experts = np.resize(np.frombuffer(os.urandom(1 << 20), dtype=np.uint8), (EXPERTS, 16384, 34 * 8))  # 36 MB
    arrays = arrays_of("olmoe", range(8))
    for layer in range(8):
        arrays[f"blk.{layer}.ffn_up_exps.weight"] = (experts, gguf.GGMLQuantizationType.Q8_0)
    base = write_moe(tmp_path / "base.gguf", "olmoe", arrays, experts=EXPERTS, names=BASE_NAMES, blocks=8)
    (tmp_path / "map.json").write_text(json.dumps({str(layer): [0, 2, 7] for layer in range(8)}))
    assert base.stat().st_size > 280_000_000
    words = [sys.executable, "-c", MEASURED, base, tmp_path / "map.json", tmp_path / "cut.gguf", sha256_file(base)]
    done = subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 150_000_000
    for path in (base, tmp_path / "cut.gguf"):  # 460 MB that pytest would keep
        path.unlink()


def test_a_partial_file_that_was_damaged_or_is_of_another_plan_is_written_again(tmp_path: Path) -> None:
    base, expected = base_and_variant(tmp_path)
    out = tmp_path / "out" / "cut.gguf"
    out.parent.mkdir()
    partial, note = partial_files(out)
    data = expected.read_bytes()
    plan = plan_cut(locate(base), DropMap(DROP), name="cut", where="map").digest(locate(base).source)
    good = {"bytes": 9000, "plan": digest_of([plan]), "sha256": sha256_bytes(data[:9000])}
    taken_over: list[int] = []
    for left, noted in (
        (data[:9000], good),
        (data[:8000] + b"x" * 2000, good),
        (data[:9000], {**good, "plan": "0" * 64}),
        (data[:5000], good),
        (data[:9000], {**good, "bytes": True}),
        (data[:9000], {**good, "bytes": -1}),
        (data + data, {**good, "bytes": 2 * len(data)}),
        (data[:9000], []),
    ):
        partial.write_bytes(left)
        note.write_text(json.dumps(noted))
        amounts = Amounts()
        run(base, out, progress=amounts)
        taken_over.append(amounts[0])
        assert out.read_bytes() == data
        assert [path.name for path in out.parent.iterdir()] == ["cut.gguf"]
        out.unlink()
    assert taken_over == [9000, *[0] * 7]


@pytest.mark.parametrize("kind", ["link", "dangling", "hard link", "pipe"])
def test_nothing_is_written_through_what_was_planted(tmp_path: Path, kind: str) -> None:
    base, expected = base_and_variant(tmp_path)
    out = tmp_path / "out" / "cut.gguf"
    out.parent.mkdir()
    victim, (partial, note) = tmp_path / "victim", partial_files(out)
    if kind != "dangling":
        victim.write_text("precious")
    if kind == "pipe":
        os.mkfifo(partial)
    elif kind == "hard link":
        os.link(victim, partial)
    else:
        partial.symlink_to(victim)
    note.write_text("[" * 100_000)
    with pytest.raises(CheckFailedError, match="is pinned"):
        run(base, out, pinned=["0" * 64])
    run(base, out)
    assert out.read_bytes() == expected.read_bytes()
    assert not out.is_symlink()
    assert not victim.exists() if kind == "dangling" else victim.read_text() == "precious"
    assert [path.name for path in out.parent.iterdir()] == ["cut.gguf"]


class Amounts(NoProgress, list[int]):
    """Progress that keeps every amount: the first is what was taken over."""

    @contextmanager
    def task(self, title: str, total: int | None, unit: Unit = "items") -> Iterator[Callable[[int], None]]:
        del title, total, unit
        yield self.append


def test_two_cuts_of_one_target_at_a_time_are_refused(tmp_path: Path) -> None:
    import fcntl

    base, _ = base_and_variant(tmp_path)
    partial, _ = partial_files(tmp_path / "cut.gguf")
    with partial.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process is writing it"):
            run(base, tmp_path / "cut.gguf")


def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, expect_full_disk: Callable[[str, Callable[[Path], object]], None]
) -> None:
    base, _ = base_and_variant(tmp_path)
    expect_full_disk("32k", lambda out: run(base, out))


def test_a_target_of_another_base_is_bad_or_refused(tmp_path: Path) -> None:
    base, variant = base_and_variant(tmp_path)
    arrays = arrays_of("gemma4", (0, 1, 2), seed=9)
    other = write_moe(tmp_path / "other.gguf", "gemma4", sliced(arrays, KEEP), experts=4, names=BASE_NAMES)
    reason = prove_cut(locate(other), locate(base)).verdicts[0].reason
    assert reason == "layer 0: row 0 of the router is none of the base's"
    reason = prove_cut(locate(other), locate(base), drop_map=DropMap(DROP)).verdicts[0].reason
    assert reason is not None
    assert "tensor 'token_embd.weight' differs" in reason
    (tmp_path / "qwen").mkdir()
    qwen, _ = base_and_variant(tmp_path / "qwen", "qwen3moe")
    with pytest.raises(InputError, match="it is no cut of this base"):
        prove_cut(locate(variant), locate(qwen))
    assert not list(tmp_path.glob(".*"))


def test_reordered_experts_are_no_cut(tmp_path: Path) -> None:
    base, _ = base_and_variant(tmp_path)
    arrays = arrays_of("gemma4", (0, 1, 2))
    keep = {**KEEP, 1: (2, 1, 3, 6)}
    swapped = write_moe(tmp_path / "s.gguf", "gemma4", sliced(arrays, keep), experts=4, names=BASE_NAMES)
    reason = prove_cut(locate(swapped), locate(base)).verdicts[0].reason
    assert reason == "layer 1: row 1 of the router stands in another order than the base's"


@pytest.mark.parametrize("options", [{"sha256": ["abc"]}, {"name": "../x"}, {"name": "a\nb"}, {"max_shard_size": "1KB"}])
def test_wrong_options_of_a_direct_cut(tmp_path: Path, options: dict[str, Any]) -> None:
    base, _ = base_and_variant(tmp_path)
    (tmp_path / "map.json").write_text(json.dumps({layer: list(ids) for layer, ids in DROP.items()}))
    with pytest.raises(InputError) as caught:
        cut_directly(base, tmp_path / "map.json", tmp_path / "out.gguf", **options)
    assert not (tmp_path / "out.gguf").exists()
    assert "Traceback" not in str(caught.value)


COMMAND = [sys.executable, "-c", "from release.cli import main; main()"]


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, check=False)


def test_the_command_line(tmp_path: Path) -> None:
    base, expected = base_and_variant(tmp_path)
    (tmp_path / "map.json").write_text(json.dumps({layer: list(ids) for layer, ids in DROP.items()}))
    out = tmp_path / "cut-Q8_0.gguf"
    done = command("gguf", "cut", base, tmp_path / "map.json", out, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert [file["sha256"] for file in summary["files"]] == [sha256_file(expected)]
    assert (summary["base"], summary["type"]) == (base.name, "Q8_0")
    assert summary["unchecked"].startswith("the base is unchecked: ")
    proved = command("prove", out, "--base", base)
    assert proved.returncode == 0
    assert proved.stdout.startswith(f"GOOD    {out.name}")
    data = bytearray(out.read_bytes())
    data[-40] ^= 1
    out.write_bytes(data)
    bad = command("prove", out, "--base", base, "--json")
    assert bad.returncode == 1
    assert json.loads(bad.stdout)["files"][0]["verdict"] == "BAD"
    for words, code in (
        (("gguf", "cut", base, tmp_path / "map.json", out), 2),
        (("gguf", "cut", tmp_path / "none.gguf", tmp_path / "map.json", tmp_path / "o.gguf"), 2),
        (("gguf", "cut", base, tmp_path / "none.json", tmp_path / "o.gguf"), 2),
        (("gguf", "cut", base, tmp_path / "map.json", tmp_path / "o.gguf", "--sha256", "0" * 64), 1),
        (("gguf", "cut", "hf://nonsense", tmp_path / "map.json", tmp_path / "o.gguf"), 2),
        (("prove", out, "--base", tmp_path), 2),
        (("prove", out, "--base", base, "--spot", "3"), 2),
        (("prove", tmp_path, "--base", tmp_path, "--drop-map", tmp_path / "map.json"), 2),
    ):
        failed = command(*words)
        assert failed.returncode == code, (words, failed.stderr)
        assert len(failed.stderr.strip().splitlines()) == 1
        assert failed.stderr.startswith("moe-release: ")
    assert not (tmp_path / "o.gguf").exists()
    assert not list(tmp_path.glob(".*"))
