from __future__ import annotations

import json
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from pruner.build import build
from pruner.checkpoint import open_checkpoint
from pruner.comparison.diff import Comparison, TensorDifference, diff
from pruner.comparison.float8 import float8_values
from pruner.drop_map import DropMap
from pruner.errors import InputError
from pruner.plan import plan_build
from pruner.safetensors_format import read_header
from tests.conftest import CheckpointFactory, gemma4_tensors

LAYERS = "model.language_model.layers"
DROP = {"0": (1, 2, 7), "1": (0, 3, 4), "2": (5, 6, 7)}
REUSE = settings(max_examples=25)


def copied(folder: Path, name: str) -> Path:
    return Path(shutil.copytree(folder, folder.with_name(name)))


def pruned(base: Path, out: Path, drop: dict[str, tuple[int, ...]] = DROP, **layout: Any) -> Path:
    build(plan_build(open_checkpoint(base), DropMap(drop), base_name={"name": "org/base"}, **layout), base, out)
    return out


def all_tensors(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {name: array for shard in sorted(folder.glob("*.safetensors")) for name, array in load_file(shard).items()}


def rewrite(folder: Path, tensors: dict[str, np.ndarray[Any, Any]], **metadata: str) -> Path:
    """Put all tensors into one shard without an index."""
    for path in [*folder.glob("*.safetensors"), *folder.glob("*.index.json")]:
        path.unlink()
    save_file(tensors, folder / "model.safetensors", metadata=metadata or None)
    return folder


def flip(folder: Path, name: str, offset: int, mask: int = 1) -> None:
    """Change bits of one byte of a tensor's data."""
    for shard in folder.glob("*.safetensors"):
        for tensor in read_header(shard).tensors:
            if tensor.name == name:
                data = bytearray(shard.read_bytes())
                data[tensor.start + offset] ^= mask
                shard.write_bytes(data)
                return
    raise KeyError(name)


def only(result: Comparison) -> TensorDifference:
    assert len(result.differences) == 1
    return result.differences[0]


def test_a_copy_has_equal_bytes(make_checkpoint: CheckpointFactory) -> None:
    base = make_checkpoint()
    result = diff(base, copied(base, "copy"))
    assert result.verdict == "equal bytes"
    assert result.equal_bytes
    assert result.same_weights
    assert result.tensors == 16
    assert result.bytes == sum(array.nbytes for array in gemma4_tensors().values())


@REUSE
@given(data=st.data())
def test_any_flipped_byte_is_located(
    data: st.DataObject, make_checkpoint: CheckpointFactory, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = make_checkpoint(tmp_path_factory.mktemp("flip").name)
    other = copied(base, f"{base.name}-flipped")
    tensors = gemma4_tensors()
    name = data.draw(st.sampled_from(sorted(tensors)))
    offset = data.draw(st.integers(0, tensors[name].nbytes - 1))
    mask = data.draw(st.integers(1, 255))
    flip(other, name, offset, mask)
    found = diff(base, other)
    each = only(found)
    assert (each.name, each.kind) == (name, "bytes")
    assert each.found is not None
    assert (each.found.differing, each.found.first, each.found.elements) == (1, offset, 1)
    before, after = tensors[name], all_tensors(other)[name]
    with np.errstate(invalid="ignore"):
        gap = np.abs(before.astype(np.float64) - after.astype(np.float64))
    finite = gap[np.isfinite(gap)]
    if each.found.not_finite:
        assert len(finite) == gap.size - 1
        assert each.found.largest is None
    else:
        assert each.found.largest == finite.max()
    stacked = ".experts." in name or ".router." in name
    assert each.layer == (name.split(".")[3] if stacked else None)
    assert each.experts == ({offset // (before.nbytes // 8): 1} if stacked else {})
    assert not found.same_weights
    assert found.verdict == "other weights: 1 tensor differs"


def test_another_split_metadata_and_no_index_are_packaging(make_checkpoint: CheckpointFactory) -> None:
    base = make_checkpoint()
    other = rewrite(copied(base, "other"), all_tensors(base), format="np")
    result = diff(base, other)
    assert result.verdict == "same weights, other packaging"
    assert result.same_weights
    assert not result.equal_bytes
    assert {each.kind for each in result.packaging} == {"shard split", "index"}


def edit_header(path: Path, *, change: Any = lambda content: content, padding: int = 0) -> None:
    """Rewrite a header as another program might: other keys' order, other metadata, other padding; data stays."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    content = change(json.loads(data[8 : 8 + length]))
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8 + padding)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.mark.parametrize(
    ("edit", "kinds"),
    [
        ({"change": lambda content: content | {"__metadata__": {"format": "tf"}}}, {"metadata"}),
        ({"change": lambda content: {key: content[key] for key in content if key != "__metadata__"}}, {"metadata"}),
        ({"change": lambda content: dict(reversed(content.items()))}, {"key order"}),
        ({"padding": 16}, {"padding"}),
    ],
    ids=["metadata", "no metadata", "key order", "padding"],
)
def test_headers_that_say_the_same_differently(make_checkpoint: CheckpointFactory, edit: Any, kinds: set[str]) -> None:
    base = make_checkpoint()
    other = copied(base, "other")
    shard = "model-00001-of-00002.safetensors"
    edit_header(other / shard, **edit)
    result = diff(base, other)
    assert result.verdict == "same weights, other packaging"
    assert {each.kind for each in result.packaging} - {"padding"} == kinds - {"padding"}
    assert kinds <= {each.kind for each in result.packaging}
    assert {each.file for each in result.packaging} == {shard}


def test_data_in_another_order_is_packaging(make_checkpoint: CheckpointFactory) -> None:
    base = make_checkpoint(shards=1)
    other = copied(base, "other")
    shard = other / "model-00001-of-00001.safetensors"
    header = read_header(shard)
    data = shard.read_bytes()
    content: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for tensor in reversed(header.tensors):
        content[tensor.name] = {
            "dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [len(body), len(body) + tensor.size],
        }  # fmt: skip
        body += data[tensor.start : tensor.end]
    text = json.dumps(content).encode()
    shard.write_bytes(len(text).to_bytes(8, "little") + text + body)
    result = diff(base, other)
    assert result.verdict == "same weights, other packaging"
    assert {"data order", "key order"} <= {each.kind for each in result.packaging}


def test_shards_of_other_names(make_checkpoint: CheckpointFactory) -> None:
    base = make_checkpoint(shards=1)
    other = copied(base, "other")
    (other / "model-00001-of-00001.safetensors").rename(other / "model.safetensors")
    (other / "model.safetensors.index.json").unlink()
    result = diff(base, other)
    assert result.verdict == "same weights, other packaging"
    assert {each.kind for each in result.packaging} == {"shard names", "index"}


def test_other_files_are_named_with_their_keys(make_checkpoint: CheckpointFactory) -> None:
    base = make_checkpoint()
    other = copied(base, "other")
    config = json.loads((other / "config.json").read_text())
    config["text_config"]["eps"] = 1e-05
    config["new"] = True
    (other / "config.json").write_text(json.dumps(config))
    (other / "README.md").unlink()
    (other / "tokenizer.json").write_text('{\n  "version": "1.0"\n}')
    (other / "vocab.txt").write_text("a")
    result = diff(base, other)
    assert result.same_weights
    assert result.verdict.startswith("same weights in equal shards; other files differ: README.md, config.json, tokenizer.json")
    files = {file.name: file for file in result.files}
    assert files["config.json"].keys == ("text_config.eps: 1e-06 in A, 1e-05 in B", "new: true only in B")
    assert files["README.md"].kind == "only in A"
    assert files["vocab.txt"].kind == "only in B"
    assert files["tokenizer.json"].kind == "formatting"


@REUSE
@given(data=st.data())
def test_experts_in_another_order_are_recognised(
    data: st.DataObject, make_checkpoint: CheckpointFactory, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = make_checkpoint(tmp_path_factory.mktemp("order").name)
    orders = [data.draw(st.permutations(range(8))) for _ in range(3)]
    tensors = all_tensors(base)
    for layer, order in enumerate(orders):
        for part in ("router.proj.weight", "router.per_expert_scale", "experts.gate_up_proj", "experts.down_proj"):
            name = f"{LAYERS}.{layer}.{part}"
            tensors[name] = tensors[name][list(order)]
    other = rewrite(copied(base, f"{base.name}-moved"), tensors)
    result = diff(base, other)
    moved = {str(layer): tuple(order) for layer, order in enumerate(orders) if list(order) != sorted(order)}
    assert {finding.layer: finding.order for finding in result.layers} == moved
    assert all(finding.kind == "order" for finding in result.layers)
    expected = "same experts in another order" if moved else "same weights, other packaging"
    assert result.verdict == expected


def test_a_moved_layer_with_a_changed_expert_is_not_called_the_same(make_checkpoint: CheckpointFactory) -> None:
    base = make_checkpoint()
    tensors = all_tensors(base)
    for part in ("router.proj.weight", "router.per_expert_scale", "experts.gate_up_proj", "experts.down_proj"):
        tensors[f"{LAYERS}.1.{part}"] = tensors[f"{LAYERS}.1.{part}"][::-1].copy()
    tensors[f"{LAYERS}.1.experts.down_proj"][2, 0, 0] += 1
    result = diff(base, rewrite(copied(base, "other"), tensors))
    (finding,) = result.layers
    assert (finding.kind, finding.order) == ("changed", (7, 6, 5, 4, 3, 2, 1, 0))
    assert finding.text.endswith("B's 2 with other bytes")
    assert result.verdict.startswith("other weights")


@pytest.mark.parametrize("keep_metadata", [True, False])
def test_another_drop_map_is_recognised(make_checkpoint: CheckpointFactory, tmp_path: Path, keep_metadata: bool) -> None:
    base = make_checkpoint()
    one = pruned(base, tmp_path / "one")
    two = pruned(base, tmp_path / "two", DROP | {"1": (0, 3, 6)})
    if not keep_metadata:
        (one / "expert_drop_metadata.json").unlink()
        (two / "expert_drop_metadata.json").unlink()
    result = diff(one, two)
    (finding,) = result.layers
    assert (finding.layer, finding.kind) == ("1", "drop map")
    # layer 1 keeps 1 2 5 6 7 in A, and 1 2 4 5 7 in B
    assert finding.order == (0, 1, None, 2, 4)
    expected = "layer 1 keeps 4 instead of 6" if keep_metadata else "layer 1 keeps B's number 2 instead of A's number 3"
    assert result.verdict == f"this looks like the drop map differs: {expected}"


def test_another_drop_map_is_recognised_when_no_expert_moves(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base = make_checkpoint()
    result = diff(pruned(base, tmp_path / "one"), pruned(base, tmp_path / "two", DROP | {"0": (1, 3, 7)}))
    assert result.verdict == "this looks like the drop map differs: layer 0 keeps 2 instead of 3"


def test_another_drop_map_is_recognised_when_scales_are_all_alike(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base = make_checkpoint()
    tensors = all_tensors(base)
    for layer in range(3):
        tensors[f"{LAYERS}.{layer}.router.per_expert_scale"][:] = 1
    rewrite(base, tensors)
    result = diff(pruned(base, tmp_path / "one"), pruned(base, tmp_path / "two", DROP | {"0": (1, 3, 7)}))
    assert result.verdict == "this looks like the drop map differs: layer 0 keeps 2 instead of 3"


def test_a_prune_is_recognised_beside_its_base(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base = make_checkpoint()
    out = pruned(base, tmp_path / "out")
    result = diff(base, out)
    assert result.verdict == "this looks like B is a prune of A: each of its experts is one of A's"
    assert [finding.order for finding in result.layers] == [(0, 3, 4, 5, 6), (1, 2, 5, 6, 7), (0, 1, 2, 3, 4)]
    assert {each.kind for each in result.differences} == {"shape"}
    assert diff(out, base).verdict == "this looks like A is a prune of B: each of its experts is one of B's"


def test_a_wider_dtype_with_equal_values_is_said(make_checkpoint: CheckpointFactory) -> None:
    base = make_checkpoint()
    other = rewrite(copied(base, "other"), {name: array.astype(np.float64) for name, array in all_tensors(base).items()})
    result = diff(base, other)
    assert result.verdict == "same values, other dtype"
    assert not result.same_weights
    assert all(each.dtypes[1] == "F64" for each in result.differences)
    flip(other, f"{LAYERS}.0.experts.down_proj", 8 * 24 * 5 + 7, 0x40)
    changed = [each for each in diff(base, other).differences if each.found and each.found.elements]
    assert [(each.name, dict(each.experts)) for each in changed] == [(f"{LAYERS}.0.experts.down_proj", {5: 1})]


def test_a_model_under_another_prefix(make_checkpoint: CheckpointFactory) -> None:
    base = make_checkpoint()
    tensors = {name.replace("model.language_model.", "model."): array for name, array in all_tensors(base).items()}
    other = rewrite(copied(base, "other"), tensors)
    result = diff(base, other)
    assert result.verdict == "same bytes under other names"
    assert not result.same_weights
    assert result.renamed[f"{LAYERS}.0.router.proj.weight"] == "model.layers.0.router.proj.weight"
    flip(other, "model.layers.2.experts.down_proj", 3)
    assert dict(only(diff(base, other)).experts) == {0: 1}


def test_missing_and_extra_tensors(make_checkpoint: CheckpointFactory) -> None:
    base = make_checkpoint()
    tensors = all_tensors(base)
    del tensors[f"{LAYERS}.0.self_attn.q_proj.weight"]
    tensors["lm_head.weight"] = np.zeros((2, 2), np.float32)
    result = diff(base, rewrite(copied(base, "other"), tensors))
    assert [(each.name, each.kind) for each in result.differences] == [
        (f"{LAYERS}.0.self_attn.q_proj.weight", "only in A"),
        ("lm_head.weight", "only in B"),
    ]


def test_an_unknown_family_is_compared_without_experts(make_checkpoint: CheckpointFactory) -> None:
    base = make_checkpoint(config={"model_type": "something_new"})
    other = copied(base, "other")
    flip(other, f"{LAYERS}.0.experts.down_proj", 3)
    result = diff(base, other)
    assert not result.experts_known
    assert (only(result).layer, dict(only(result).experts)) == (None, {})


def test_single_files(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base = make_checkpoint(shards=1)
    shard = base / "model-00001-of-00001.safetensors"
    lonely = tmp_path / "lonely.safetensors"
    shutil.copyfile(shard, lonely)
    assert diff(shard, lonely).verdict == "same weights, other packaging"
    assert {each.kind for each in diff(shard, lonely).packaging} == {"shard names"}
    flip(base, f"{LAYERS}.1.experts.down_proj", 100)
    assert dict(only(diff(shard, lonely)).experts) == {2: 1}  # 48 bytes a row; the family is known beside one of the files


def test_values_of_every_dtype(tmp_path: Path) -> None:
    left = {
        "i64": np.array([np.iinfo(np.int64).min, 5]), "u64": np.array([0, 5], np.uint64), "u8": np.array([3, 200], np.uint8),
        "i8": np.array([-128, 1], np.int8), "f32": np.array([np.nan, 1], np.float32), "bool": np.array([True, False]),
        "f64": np.array([0.0, -0.0]), "f16": np.array([np.inf, 1], np.float16), "empty": np.zeros((0, 3), np.float32),
    }  # fmt: skip
    right = {
        "i64": np.array([np.iinfo(np.int64).max, 5]), "u64": np.array([2**64 - 1, 5], np.uint64),
        "u8": np.array([200, 3], np.uint8), "i8": np.array([127, 1], np.int8), "f32": np.array([np.nan, 4], np.float32),
        "bool": np.array([True, True]), "f64": np.array([-0.0, -0.0]), "f16": np.array([1, 1.5], np.float16),
        "empty": np.zeros((0, 3), np.float32),
    }  # fmt: skip
    for name, tensors in (("left", left), ("right", right)):
        save_file(tensors, tmp_path / f"{name}.safetensors")
    result = diff(tmp_path / "left.safetensors", tmp_path / "right.safetensors")
    found = {each.name: each.found for each in result.differences}
    assert {name: each and (each.elements, each.largest, each.not_finite) for name, each in found.items()} == {
        "i64": (1, 2**64 - 1, 0), "u64": (1, 2**64 - 1, 0), "u8": (2, 197, 0), "i8": (1, 255, 0), "f32": (1, 3.0, 0),
        "bool": (None, None, 0), "f64": (1, 0.0, 0), "f16": (2, 0.5, 1),
    }  # fmt: skip


FLOAT8 = {
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip


@pytest.mark.parametrize("dtype", FLOAT8)
def test_8_bit_floats_have_the_values_that_torch_gives_them(tmp_path: Path, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="needs the analysis extra")
    from safetensors.torch import save_file as save_torch

    codes = torch.arange(256, dtype=torch.uint8)
    kind = getattr(torch, FLOAT8[dtype])
    expected = codes.view(kind).float().numpy()
    np.testing.assert_array_equal(float8_values(dtype), expected)
    other = codes.flip(0)
    save_torch({"a": codes.view(kind)}, tmp_path / "one.safetensors")
    save_torch({"a": other.view(kind)}, tmp_path / "two.safetensors")
    found = only(diff(tmp_path / "one.safetensors", tmp_path / "two.safetensors")).found
    assert found is not None
    with np.errstate(invalid="ignore"):
        gaps = np.abs(expected.astype(np.float64) - expected[::-1].astype(np.float64))
    assert (found.elements, found.largest) == (256, gaps[np.isfinite(gaps)].max())
    assert found.not_finite == np.count_nonzero(~np.isfinite(gaps))


def test_bfloat16_differences_in_a_tensor_of_many_blocks(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the analysis extra")
    from safetensors.torch import save_file as save_torch

    tensor = torch.arange(1_500_000, dtype=torch.float32).to(torch.bfloat16).reshape(3, -1)
    changed = tensor.clone()
    changed[1, 7] += 4096
    changed[2, 499_999] += 65_536
    save_torch({"a": tensor, "b": tensor.clone()}, tmp_path / "one.safetensors")
    save_torch({"a": changed, "b": tensor}, tmp_path / "two.safetensors")
    each = only(diff(tmp_path / "one.safetensors", tmp_path / "two.safetensors"))
    expected = (changed.float() - tensor.float()).abs().max().item()
    assert each.found is not None
    assert (each.found.elements, each.found.largest) == (2, expected)


def test_the_result_does_not_depend_on_who_works(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base = make_checkpoint()
    one, two = pruned(base, tmp_path / "one"), pruned(base, tmp_path / "two", DROP | {"1": (0, 3, 6), "2": (0, 1, 2)})
    flip(two, f"{LAYERS}.0.self_attn.q_proj.weight", 5)
    alone = diff(one, two, workers=1)
    assert diff(one, two, workers=7) == alone
    with ProcessPoolExecutor(2) as pool:
        assert diff(one, two, executor=pool) == alone


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "does not exist"),
        (lambda folder: (folder / "model-00002-of-00002.safetensors").unlink(), "names model-00002-of-00002.*missing"),
        (lambda folder: [path.unlink() for path in folder.glob("model*")], "is it a safetensors checkpoint"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("{"), "not JSON"),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": 3}}'),
            "no usable weight_map",
        ),
        (lambda folder: (folder / "config.json").write_text("[]"), "expected a mapping"),
        (lambda folder: (folder / "model-00001-of-00002.safetensors").write_bytes(b"1234"), "no safetensors file"),
    ],
    ids=["no folder", "no shard", "no weights", "bad index", "wrong index", "bad config", "bad shard"],
)
def test_bad_input_is_one_line(make_checkpoint: CheckpointFactory, spoil: Any, message: str) -> None:
    base = make_checkpoint()
    other = copied(base, "other")
    spoil(other)
    with pytest.raises(InputError, match=message) as caught:
        diff(base, other)
    assert "\n" not in str(caught.value)


def test_different_models(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    save_file({"something": np.zeros(3)}, tmp_path / "other.safetensors")
    result = diff(make_checkpoint(), tmp_path / "other.safetensors")
    assert result.verdict == "different models: no tensor has the same name"
    assert not result.same_weights


def test_an_index_that_counts_otherwise_is_explained(tiny_model: Path, tmp_path: Path) -> None:
    """Transformers counted parameters and left the four `layer_scalar` out; the tensors hold them too."""
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    path = other / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    held = sum(tensor.elements for file in other.glob("*.safetensors") for tensor in read_header(file).tensors)
    scalars = [name for name in index["weight_map"] if name.endswith("layer_scalar")]
    assert (index["metadata"]["total_parameters"], len(scalars)) == (held - 4, 4)
    index["metadata"]["total_parameters"] = held
    path.write_text(json.dumps(index))
    result = diff(tiny_model, other)
    assert result.same_weights
    said = f"A's tensors hold {held:,} values, its index says {held - 4:,} parameters (transformers leaves buffers out)"
    assert [each.text.partition("; ")[2] for each in result.packaging] == [said]
