from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pruner.checkpoint import open_checkpoint
from pruner.errors import InputError
from tests.conftest import CheckpointFactory, gemma4_config

SHARD = "model-00001-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def rewrite_header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def with_a_header_of(path: Path, length: int) -> None:
    """A whole file of a header of that length, which takes no disk: zeros are no JSON."""
    path.write_bytes(length.to_bytes(8, "little"))
    os.truncate(path, 8 + length)


def first_tensor(header: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = next(value for key, value in header.items() if key != "__metadata__")
    return entry


def test_tensors_come_in_index_order_shard_by_shard(make_checkpoint: CheckpointFactory) -> None:
    folder = make_checkpoint()
    base = open_checkpoint(folder)
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    expected = [name for shard in sorted(set(weight_map.values())) for name, where in weight_map.items() if where == shard]
    assert list(base.tensors) == expected
    assert base.layers == ("0", "1", "2")
    assert base.others == ("tokenizer.json",)


def test_the_tiny_model_opens(tiny_model: Path) -> None:
    base = open_checkpoint(tiny_model)
    assert base.architecture.experts == 16
    assert len(base.shards) > 1
    assert len(base.layers) == base.architecture.layers


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "truncated"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "longer than its header"),
        (lambda path: path.write_bytes(b""), "no safetensors file"),
        (lambda path: path.write_bytes((1 << 40).to_bytes(8, "little") + b"{}"), "no safetensors file"),
        (lambda path: path.write_bytes((200_000_000).to_bytes(8, "little") + b"{}"), "no safetensors file"),
        (lambda path: with_a_header_of(path, 100_000_001), "a header of 100,000,001 bytes in a file of 100,000,009"),
        (lambda path: with_a_header_of(path, 100_000_000), "the safetensors header is not JSON"),
        (lambda path: path.write_bytes((2).to_bytes(8, "little") + b"[]"), "no mapping"),
        (lambda path: path.write_bytes((2).to_bytes(8, "little") + b"\xff{"), "not JSON"),
        (lambda path: path.write_bytes((4000).to_bytes(8, "little") + b"[" * 4000), "not JSON"),
        (lambda path: rewrite_header(path, lambda header: first_tensor(header).update(dtype="Q4")), "unusable entry"),
        (lambda path: rewrite_header(path, lambda header: first_tensor(header).update(shape=[-1, 2])), "unusable entry"),
        (lambda path: rewrite_header(path, lambda header: first_tensor(header).update(data_offsets=[0])), "unusable entry"),
        (lambda path: rewrite_header(path, lambda header: first_tensor(header).update(shape=[1] * 60_000)), "unusable entry"),
        (
            lambda path: rewrite_header(path, lambda header: first_tensor(header).update(shape=[1 << 62, 1 << 62])),
            "cannot have",
        ),
        (lambda path: rewrite_header(path, lambda header: header.update(x=first_tensor(header))), "overlaps"),
        (lambda path: rewrite_header(path, lambda header: header.pop(next(k for k in header if k[0] != "_"))), "hole|not in"),
    ],
)
def test_a_damaged_shard_is_one_line(make_checkpoint: CheckpointFactory, damage: Callable[[Path], Any], message: str) -> None:
    folder = make_checkpoint()
    damage(folder / SHARD)
    with pytest.raises(InputError, match=message) as caught:
        open_checkpoint(folder)
    assert SHARD in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.clear(), "no weight_map"),
        (lambda index: index["weight_map"].update(a="missing.safetensors"), "missing.safetensors, which is missing"),
        (lambda index: index["weight_map"].update(a=SHARD), "'a' is not in"),
        (lambda index: index["weight_map"].update(a="../x.safetensors"), "no shard of this folder"),
        (lambda index: index["weight_map"].update(a=3), "no shard of this folder"),
        (lambda index: index["weight_map"].popitem(), "does not know"),
    ],
)
def test_an_index_that_disagrees_is_one_line(
    make_checkpoint: CheckpointFactory, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    folder = make_checkpoint()
    index = json.loads((folder / INDEX).read_text())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(InputError, match=message):
        open_checkpoint(folder)


def test_a_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; give a folder, or hf:"):
        open_checkpoint(tmp_path / "nothing")


def test_an_unknown_family_names_the_file_to_add_it_to(make_checkpoint: CheckpointFactory) -> None:
    folder = make_checkpoint(config={**gemma4_config(), "model_type": "brandnew"})
    with pytest.raises(InputError, match=r"'brandnew' is not supported .* pruner/families.py"):
        open_checkpoint(folder)


def test_a_dense_model_is_refused(make_checkpoint: CheckpointFactory) -> None:
    config = gemma4_config()
    config["text_config"]["num_experts"] = None
    with pytest.raises(InputError, match="is this a Mixture-of-Experts model"):
        open_checkpoint(make_checkpoint(config=config))


def test_a_single_file_without_index_is_a_checkpoint(make_checkpoint: CheckpointFactory) -> None:
    folder = make_checkpoint(shards=1)
    (folder / INDEX).unlink()
    (folder / "model-00001-of-00001.safetensors").rename(folder / "model.safetensors")
    base = open_checkpoint(folder)
    assert base.shards == ("model.safetensors",)
    assert len(base.tensors) == 16


def test_code_that_the_config_wants_is_named_when_it_is_not_copied(make_checkpoint: CheckpointFactory) -> None:
    named = {"AutoConfig": "configuration_x.XConfig", "AutoModel": ["modeling_x.X", None], "AutoTokenizer": "org/repo--tok.T"}
    folder = make_checkpoint(config={**gemma4_config(), "auto_map": named})
    assert open_checkpoint(folder).remarks == ()
    for name in ("configuration_x.py", "modeling_x.py", "tok.py", "setup.py"):
        (folder / name).write_text("raise SystemExit")
    base = open_checkpoint(folder)
    assert base.left_code == ("configuration_x.py", "modeling_x.py")
    assert base.remarks[0] == "not copied: configuration_x.py, modeling_x.py, setup.py, tok.py"
    assert base.remarks[1].startswith(
        "warning: config.json wants configuration_x.py, modeling_x.py, code of the base, which is"
    )
    for strange in (3, [], {"AutoModel": 3}, {"AutoModel": [[3]]}):
        assert open_checkpoint(make_checkpoint(f"b{strange}", config={**gemma4_config(), "auto_map": strange})).left_code == ()
