"""Plans at the size of published models, on headers alone: nothing is built, and the data are holes."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from pruner.checkpoint import open_checkpoint
from pruner.drop_map import DropMap
from pruner.errors import InputError
from pruner.plan import DEFAULT_SHARD_SIZE, plan_build
from tests.pruner.sparse import gemma4_26b_a4b, qwen3_6_35b_a3b, sparse_checkpoint
from tests.release.test_cli import moe_release


def random_map(layers: tuple[str, ...], experts: int, dropped: int) -> DropMap:
    choice = random.Random(0)
    return DropMap({layer: tuple(sorted(choice.sample(range(experts), dropped))) for layer in layers})


def test_gemma4_26b_a4b_from_128_to_109_experts(tmp_path: Path) -> None:
    base = open_checkpoint(sparse_checkpoint(tmp_path / "base", *gemma4_26b_a4b()))
    assert base.tensor_bytes == 51_611_867_804
    assert sum(path.stat().st_blocks * 512 for path in (tmp_path / "base").iterdir()) < 1 << 20  # holes
    plan = plan_build(base, random_map(base.layers, 128, 19), base_name={"name": "base"})
    assert base.parameters - plan.total_parameters == 3_391_619_130
    assert base.tensor_bytes - plan.total_bytes == 6_783_238_260
    assert f"{plan.total_bytes / 1e9:.2f} GB, {plan.total_bytes / 2**30:.2f} GiB" == "44.83 GB, 41.75 GiB"
    assert f"{plan.total_parameters / 1e9:.2f} B" == "22.41 B"
    sizes = [sum(tensor.size for tensor in shard.tensors) for shard in plan.shards]
    assert len(sizes) == 9  # 41.75 GiB in shards of at most 5, none of which could take a tensor of the next
    assert max(sizes) <= DEFAULT_SHARD_SIZE
    assert min(sizes[:-1]) > DEFAULT_SHARD_SIZE - 128 * 2 * 704 * 2816 * 2
    assert sum(sizes) == plan.total_bytes
    assert sum(tensor.elements for shard in plan.shards for tensor in shard.tensors) == plan.total_parameters
    assert json.loads(plan.texts["config.json"])["text_config"]["num_experts"] == 109


def test_the_command_prints_the_published_sizes(tmp_path: Path) -> None:
    base = open_checkpoint(sparse_checkpoint(tmp_path / "base", *gemma4_26b_a4b()))
    drop = random_map(base.layers, 128, 19).drop
    (tmp_path / "map.json").write_text(json.dumps({layer: list(ids) for layer, ids in drop.items()}))
    manifest = tmp_path / "v.yaml"
    manifest.write_text(
        "schema: moe-release/v1\nname: v\nbase: {path: base}\nprune: {experts: 109, drop_map: {path: map.json}}\n"
    )
    shown = moe_release("plan", manifest)
    assert shown.returncode == 0, shown.stderr
    assert "base 51.61 GB (48.07 GiB), variant 44.83 GB (41.75 GiB), 22.41 B parameters" in shown.stdout.splitlines()


def test_qwen3_6_35b_a3b_from_256_to_184_experts_with_its_mtp_block(tmp_path: Path) -> None:
    base = open_checkpoint(sparse_checkpoint(tmp_path / "base", *qwen3_6_35b_a3b()))
    drop_map = random_map(base.layers, 256, 72)
    assert tuple(drop_map.drop) == (*(str(layer) for layer in range(40)), "mtp")
    plan = plan_build(base, drop_map, base_name={"name": "base"})
    assert base.parameters - plan.total_parameters == 41 * 72 * (3 * 512 * 2048 + 2048)
    without = DropMap({layer: ids for layer, ids in drop_map.drop.items() if layer != "mtp"})
    with pytest.raises(InputError, match="40 layers, the base has 41 with experts; layer mtp is missing"):
        plan_build(base, without, base_name={"name": "base"})
