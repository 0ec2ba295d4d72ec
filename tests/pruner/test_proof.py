"""Proofs of real builds, and of builds that somebody changed."""

from __future__ import annotations

import hashlib
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from pruner.build import build
from pruner.checkpoint import INDEX, METADATA, open_checkpoint
from pruner.drop_map import DropMap
from pruner.errors import InputError
from pruner.files import canonical_json
from pruner.plan import plan_build
from pruner.proof import PLANTED, Proof, planned_digest, prove
from pruner.safetensors_format import build_header
from pruner.sources import TEMPLATES, LocalSource
from pruner.spot import SPOT_BLOCK, spot_check
from tests.conftest import CheckpointFactory, gemma4_config
from tests.release.test_cli import moe_release

DROP = {"0": (1, 2, 7), "1": (0, 3, 4), "2": (5, 6, 7)}
Metadata = str


def make_target(base: Path, out: Path, *, cap: int = 400, metadata: Metadata = "pt") -> Path:
    drop_map = DropMap(DROP, provenance={"ranking": {"method": "coverage", "protect": 16}})
    plan = plan_build(open_checkpoint(base), drop_map, base_name={"name": "b"}, max_shard_size=cap, metadata=metadata)
    build(plan, base, out)
    return out


@pytest.fixture
def base(make_checkpoint: CheckpointFactory) -> Path:
    return make_checkpoint()


@pytest.fixture
def target(base: Path, tmp_path: Path) -> Path:
    return make_target(base, tmp_path / "target")


def proof_of(target: Path, base: Path, **options: object) -> Proof:
    return prove(LocalSource(target), LocalSource(base), **options)  # type: ignore[arg-type]


def only_bad(proof: Proof) -> tuple[str, str]:
    assert not proof.good
    (bad,) = [verdict for verdict in proof.verdicts if not verdict.good]
    return bad.name, str(bad.reason)


def shard_with(target: Path, tensor: str) -> tuple[Path, int]:
    """File of a tensor, and where its data begin."""
    stored = open_checkpoint(target).tensors[f"model.language_model.layers.{tensor}"]
    return target / stored.shard, stored.info.start


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("metadata", ["none", "pt"])
@pytest.mark.parametrize("cap", [1, 300, 400, 700, 10**6])
def test_any_layout_is_read_from_the_target_and_proved(base: Path, tmp_path: Path, cap: int, metadata: Metadata) -> None:
    target = make_target(base, tmp_path / "out", cap=cap, metadata=metadata)
    built = {path.name for path in target.iterdir()}
    harmless = ("LICENSE", "README.md", "cat.png", "v.lock.json")
    for name in (*harmless, "reproduce/evidence.json", "original/model.pth"):
        write(target / name)
    proof = proof_of(target, base)
    assert [verdict.reason for verdict in proof.verdicts if not verdict.good] == []
    assert {verdict.name for verdict in proof.verdicts} == built
    assert proof.unplanned == (*harmless, "original/", "reproduce/")


def test_planned_digests_are_those_of_the_build_for_any_workers(base: Path, target: Path) -> None:
    plan = plan_build(open_checkpoint(base), DropMap(DROP), base_name={"name": "b"}, max_shard_size=400)
    for shard in plan.shards:
        assert planned_digest(shard, LocalSource(base)).value == hashlib.sha256((target / shard.name).read_bytes()).hexdigest()
    proofs = [proof_of(target, base, workers=workers) for workers in (1, 3)]
    with ProcessPoolExecutor(2) as executor:
        proofs.append(proof_of(target, base, executor=executor))
    assert all(proof == proofs[0] and proof.good for proof in proofs)


def test_nothing_is_written(base: Path, target: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    proof_of(target, base)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_flipped_bit_is_located_to_the_expert(base: Path, target: Path) -> None:
    shard, start = shard_with(target, "0.experts.gate_up_proj")
    flip(shard, start + 2 * 96 + 5)  # third row: expert 4 of the base
    name, reason = only_bad(proof_of(target, base))
    assert name == shard.name
    assert "layers.0.experts.gate_up_proj' differs from its byte 197 on: layer 0, expert 2 (expert 4 of the base)" in reason


def test_swapped_experts_are_recognized(base: Path, target: Path) -> None:
    shard, start = shard_with(target, "0.experts.gate_up_proj")
    data = bytearray(shard.read_bytes())
    data[start : start + 96], data[start + 96 : start + 192] = data[start + 96 : start + 192], data[start : start + 96]
    shard.write_bytes(data)
    _, reason = only_bad(proof_of(target, base))
    assert "layer 0, expert 0 (expert 0 of the base) holds expert 3 of the base" in reason


def test_another_base_is_bad(make_checkpoint: CheckpointFactory, target: Path) -> None:
    proof = proof_of(target, make_checkpoint("other", seed=1))
    assert not any(verdict.good for verdict in proof.verdicts if verdict.name.endswith(".safetensors"))


def edit_header(path: Path, change: Callable[[bytes], bytes]) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = change(data[8 : 8 + length])
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(b'"F16"', b'"BF16"', 1).removesuffix(b" "), "is BF16 .* planned F16"),
        (lambda text: text + b" " * 8, "another order, or other white space"),
        (lambda text: text.replace(b'"pt"', b'"tf"'), "its metadata are {'format': 'tf'}"),
        (lambda text: text.replace(b"embed_tokens", b"embed_tokenz"), "holds tensor .*embed_tokenz"),
        (lambda text: text[:-20], "the header is damaged"),
        (lambda text: b"[]" + text[2:], "the header is damaged"),
    ],
)
def test_a_tampered_header_is_said(base: Path, target: Path, change: Callable[[bytes], bytes], message: str) -> None:
    shard = target / open_checkpoint(target).tensors["model.language_model.embed_tokens.weight"].shard
    edit_header(shard, change)
    name, reason = only_bad(proof_of(target, base))
    assert name == shard.name
    assert re.search(message, reason)


def flip_in_the_header(data: bytes, place: int) -> bytes:
    bit = place % (8 * (8 + int.from_bytes(data[:8], "little")))
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


DAMAGES: dict[str, Callable[[bytes, int], bytes]] = {
    "flipped": flip_in_the_header,
    "truncated": lambda data, place: data[: place % len(data)],
    "longer": lambda data, place: data + bytes(1 + place % 3000),
    "another length": lambda data, place: place.to_bytes(8, "little") + data[8:],
    "zeros": lambda data, _: bytes(len(data)),
}


@given(
    cap=st.sampled_from([800, 900, 1100, 1500]),
    metadata=st.sampled_from(["none", "pt"]),
    which=st.integers(0, 4),
    damage=st.sampled_from([*DAMAGES, "another shard's", "missing"]),
    place=st.integers(0, (1 << 40) - 1),
)
def test_one_damaged_shard_is_the_one_that_is_bad(
    base: Path, tmp_path: Path, cap: int, metadata: Metadata, which: int, damage: str, place: int
) -> None:
    target = tmp_path / f"{cap} {metadata}"
    if not target.exists():
        make_target(base, target, cap=cap, metadata=metadata)
    shards = sorted(target.glob("*.safetensors"))
    assert len(shards) == {800: 5, 900: 4, 1100: 3, 1500: 2}[cap]
    shard, other = shards[which % len(shards)], shards[which % len(shards) - 1]
    before = shard.read_bytes()
    try:
        if damage == "missing":
            shard.unlink()
        else:
            shard.write_bytes(other.read_bytes() if damage == "another shard's" else DAMAGES[damage](before, place))
        proof = proof_of(target, base)
        sampled = spot_check(LocalSource(target), LocalSource(base), 3, seed=place).proof
        assert only_bad(proof) == only_bad(sampled)
        assert proof.unplanned == ()
        name, reason = only_bad(proof)
        assert name == shard.name
        assert reason.startswith(("the header ", "has ", "is missing"))
    finally:
        shard.write_bytes(before)


@given(bit=st.integers(0, (1 << 40) - 1))
def test_a_flipped_bit_of_the_metadata_makes_no_shard_bad(base: Path, target: Path, bit: int) -> None:
    path = target / METADATA
    before = path.read_bytes()
    place = bit // 8 % len(before)
    try:
        path.write_bytes(before[:place] + bytes([before[place] ^ 1 << bit % 8]) + before[place + 1 :])
        proof = proof_of(target, base)
        assert proof.good or only_bad(proof)[0] == METADATA  # good: it may call the base and the ranking what it likes
    except InputError as error:
        assert METADATA in str(error)  # noqa: PT017  # or else it is BAD
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("ids", [[1, 3, 7], [1, 1, 7], [1, 2], "127"])
def test_a_damaged_id_makes_the_metadata_bad_alone(base: Path, target: Path, ids: object) -> None:
    content = json.loads((target / METADATA).read_text())
    content["per_layer_drop"]["0"] = ids
    (target / METADATA).write_bytes(canonical_json(content))
    assert only_bad(proof_of(target, base))[0] == METADATA


@pytest.mark.parametrize("damage", [lambda index: index.unlink(), lambda index: index.write_text("{")])
def test_a_damaged_index_is_bad_and_the_shards_are_not(base: Path, target: Path, damage: Callable[[Path], object]) -> None:
    damage(target / INDEX)
    name, reason = only_bad(proof_of(target, base))
    assert name == INDEX
    assert reason in ("is missing", "differs from what this tool writes for the base and the drop map")


@pytest.mark.parametrize(
    ("damage", "name", "message"),
    [
        (lambda t: (t / "tokenizer.json").write_text("{}"), "tokenizer.json", "differs from the base's"),
        (lambda t: (t / "tokenizer.json").unlink(), "tokenizer.json", "is missing"),
        (lambda t: (t / "config.json").write_text("{}"), "config.json", "differs from what this tool writes"),
        (lambda t: (t / "more.safetensors").write_text("x"), "more.safetensors", f"{PLANTED} weights"),
        (lambda t: (t / "pytorch_model.bin").write_text("x"), "pytorch_model.bin", f"{PLANTED} weights"),
        (lambda t: (t / "modeling_x.py").write_text("x"), "modeling_x.py", f"{PLANTED} code"),
        (lambda t: (t / "adapter_config.json").write_text("{}"), "adapter_config.json", f"{PLANTED} configuration"),
        (lambda t: write(t / TEMPLATES / "x.jinja"), f"{TEMPLATES}/x.jinja", f"{PLANTED} chat templates"),
        (lambda t: min(t.glob("*.safetensors")).unlink(), "model-00001", "is missing"),
    ],
)
def test_small_files_and_the_set_of_shards_count(
    base: Path, target: Path, damage: Callable[[Path], object], name: str, message: str
) -> None:
    damage(target)
    bad, reason = only_bad(proof_of(target, base))
    assert bad.startswith(name)
    assert message in reason


def test_a_base_model_that_is_a_word_is_read(base: Path, target: Path) -> None:
    """As others write it; the file itself is not what this tool writes, and is called that."""
    content = json.loads((target / METADATA).read_text())
    (target / METADATA).write_text(json.dumps({**content, "base_model": "org/base"}))
    assert only_bad(proof_of(target, base))[0] == METADATA


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist, so the target does not say"),
        ("{}", "has no per_layer_drop .* `moe-release infer` finds them"),
        ('{"per_layer_drop": {"0": ["x"]}, "base_model": {}}', "expected a list of expert ids"),
        ('{"per_layer_drop": {"0": [1]}, "base_model": {}}', "layer 1 is missing"),
        ('{"per_layer_drop": {"0": [1]}, "base_model": {}, "method": NaN}', "holds a number or text that no JSON should"),
    ],
)
def test_a_target_that_does_not_say_how_it_was_made_is_refused(
    base: Path, target: Path, content: str | None, message: str
) -> None:
    (target / METADATA).unlink()
    if content is not None:
        (target / METADATA).write_text(content)
    with pytest.raises(InputError, match=message):
        proof_of(target, base)


def test_a_spot_check_finds_what_it_reads_and_says_what_it_may_miss(base: Path, target: Path) -> None:
    sources = LocalSource(target), LocalSource(base)
    check = spot_check(*sources, 50, seed=3)
    assert check.proof.good
    assert check.of_blocks == len(check.drawn)
    assert check.drawn.keys() == {path.name for path in target.glob("*.safetensors")}
    assert sum(check.drawn.values()) == 50
    assert check.miss_probability(0.01) == pytest.approx(0.99**50)
    assert spot_check(*sources, 50, seed=3, workers=1) == check
    assert spot_check(*sources, 50, seed=4).drawn != check.drawn
    shard, start = shard_with(target, "1.experts.down_proj")
    flip(shard, start + 48)
    name, reason = only_bad(spot_check(*sources, 200, seed=3).proof)
    assert name == shard.name
    assert "layer 1, expert 1 (expert 2 of the base)" in reason
    assert not spot_check(*sources, 200, seed=3, workers=3).proof.good


def test_the_promised_chance_of_missing_is_the_real_one(base: Path, target: Path) -> None:
    """One of n blocks is tampered; of 300 checks of 5 blocks about (1 - 1/n)^5 miss it."""
    sources = LocalSource(target), LocalSource(base)
    shard, start = shard_with(target, "1.experts.down_proj")
    flip(shard, start)
    checks = [spot_check(*sources, 5, seed=seed, workers=1) for seed in range(300)]
    missed = sum(check.proof.good for check in checks) / len(checks)
    assert missed == pytest.approx(checks[0].miss_probability(1 / checks[0].of_blocks), abs=0.09)
    assert shard.stat().st_size < SPOT_BLOCK


def with_a_shard_of_its_own(target: Path) -> None:
    """What a sample of the planned shards alone would certify: the index leads to one more, whose tensor is another."""
    index = json.loads((target / INDEX).read_text())
    name = next(name for name in index["weight_map"] if "down_proj" in name)
    tensor = load_file(target / index["weight_map"][name])[name]
    save_file({name: tensor + 1}, target / "model-extra.safetensors")
    index["weight_map"][name] = "model-extra.safetensors"
    (target / INDEX).write_text(json.dumps(index))


def write(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("x")


def rebuilt_config(target: Path) -> None:
    config = json.loads((target / "config.json").read_text())
    config["text_config"]["top_k_experts"] = 1
    (target / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("tamper", "bad"),
    [
        (with_a_shard_of_its_own, {INDEX, "model-extra.safetensors"}),
        (rebuilt_config, {"config.json"}),
        (lambda target: (target / "tokenizer.json").write_text("{}"), {"tokenizer.json"}),
        (lambda target: (target / "tokenizer.json").unlink(), {"tokenizer.json"}),
        (lambda target: (target / "model.safetensors").write_bytes(b"x"), {"model.safetensors"}),
        (lambda target: (target / "pytorch_model.bin").write_bytes(b"x"), {"pytorch_model.bin"}),
        (lambda target: (target / "modeling_x.py").write_text("x"), {"modeling_x.py"}),
    ],
)
def test_a_spot_check_compares_all_that_stands_beside_the_shards(
    base: Path, target: Path, tamper: Callable[[Path], object], bad: set[str]
) -> None:
    (target / "README.md").write_text("a card")
    tamper(target)
    check = spot_check(LocalSource(target), LocalSource(base), 20, seed=1)
    assert {verdict.name for verdict in check.proof.verdicts if not verdict.good} == bad
    assert check.proof.unplanned[0] == "README.md"
    said = moe_release("prove", target, "--base", base, "--spot", 20)
    assert said.returncode == 1
    assert {line.split()[1] for line in said.stdout.splitlines() if line.startswith("BAD")} == bad
    assert f"{len(bad)} of " in said.stdout
    assert "not compared, as no build writes them: README.md" in said.stdout


def test_what_a_spot_check_prints_of_its_chances_is_true(base: Path, tmp_path: Path) -> None:
    target = make_target(base, tmp_path / "target", cap=1)
    done = moe_release("prove", target, "--base", base, "--spot", 7, "--seed", 5)
    assert done.returncode == 0, done.stderr
    found = re.search(r"(\d+) blocks drawn out of (\d+) \(--seed 5\); the others were not read", done.stdout)
    assert found is not None
    drawn, blocks = map(int, found.groups())
    assert (drawn, blocks) == (7, len(list(target.glob("*.safetensors"))))
    said = dict(
        re.findall(r"If (.*?) tampered with, such a check would miss it with probability (\S+)\.$", done.stdout, re.MULTILINE)
    )
    assert set(said) == {"10.0% of the blocks were", "one single block was"}, "a thousandth of so few blocks is none"
    assert float(said["10.0% of the blocks were"]) == pytest.approx(0.9**7, rel=0.01)
    assert float(said["one single block was"]) == pytest.approx((1 - 1 / blocks) ** 7, rel=0.01)
    marks = {line.split()[1]: line.split()[0] for line in done.stdout.splitlines() if line.startswith(("GOOD", "SAMPLED"))}
    assert {name for name, mark in marks.items() if mark == "SAMPLED"} == {path.name for path in target.glob("*.safetensors")}
    assert marks["tokenizer.json"] == marks[INDEX] == marks["config.json"] == "GOOD"
    content = json.loads(moe_release("prove", target, "--base", base, "--spot", 7, "--seed", 5, "--json").stdout)
    assert {file["name"]: file["verdict"] for file in content["files"]} == marks
    assert sum(file.get("blocks", 0) for file in content["files"]) == 7


MEASURE = """
import sys
from pathlib import Path
from pruner.build import build
from pruner.checkpoint import open_checkpoint
from pruner.drop_map import DropMap
from pruner.plan import plan_build
from pruner.proof import prove
from pruner.sources import TEMPLATES, LocalSource
base, out = Path(sys.argv[1]), Path(sys.argv[2])
if sys.argv[3] == "build":
    plan = plan_build(open_checkpoint(base), DropMap({"0": (1, 2, 7)}), base_name={"name": "b"}, max_shard_size=100 << 20)
    build(plan, base, out, workers=2)
else:
    assert prove(LocalSource(out), LocalSource(base), workers=2).good
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) * 1024)  # ru_maxrss is no use: a child inherits its parent's
"""


def sparse_checkpoint(folder: Path, rows: int) -> Path:
    """A checkpoint of zeros that takes no disk: 8 experts of `rows` times 18 KiB, and an embedding of 16 MiB."""
    folder.mkdir()
    prefix = "model.language_model.layers.0"
    shapes = {
        "model.language_model.embed_tokens.weight": (8 << 10, 1024),
        f"{prefix}.experts.down_proj": (8, rows, 1024),
        f"{prefix}.experts.gate_up_proj": (8, 8 * rows, 1024),
        f"{prefix}.router.proj.weight": (8, 1024),
    }
    header = build_header(((name, "F16", shape) for name, shape in shapes.items()), "pt")
    with (folder / "model.safetensors").open("wb") as file:
        file.write(header)
        file.truncate(len(header) + sum(2 * math.prod(shape) for shape in shapes.values()))
    (folder / "config.json").write_text(json.dumps(gemma4_config(layers=1)))
    return folder


def test_memory_does_not_grow_with_the_checkpoint(tmp_path: Path) -> None:
    """A checkpoint of 600 MB is built and proved in far less memory than it takes."""
    base = sparse_checkpoint(tmp_path / "base", rows=4096)
    assert (base / "model.safetensors").stat().st_size > 600_000_000
    for what in ("build", "prove"):
        words = [sys.executable, "-c", MEASURE, base, tmp_path / "out", what]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert int(done.stdout) < 150_000_000, what
