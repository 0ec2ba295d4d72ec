"""The rank stage on families whose maps have rules of their own: expert groups, and a multi-token prediction block."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pruner.checkpoint import open_checkpoint
from pruner.drop_map import DropMap, read_drop_map
from pruner.errors import InputError
from pruner.expert_groups import surviving_groups
from release.context import Context, Options
from release.manifest import load_manifest
from release.pipeline import run_pipeline
from tests.pruner import family_models
from tests.pruner.analysis.conftest import randomize, row, save_tokenizer, write_rows
from tests.pruner.test_families_mtp import with_mtp

pytestmark = pytest.mark.torch

GATES = "{max_unrouted: 1, max_starved_layers: 9}"
Measured = Callable[..., DropMap]


@pytest.fixture
def ranked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Measured:
    """Measures a tiny model of a family, ranks it, and returns the map."""
    monkeypatch.setitem(family_models.SMALL, "vocab_size", 272)  # the tokenizer's
    monkeypatch.setitem(family_models.SMALL, "max_position_embeddings", 1024)

    def rank(family: str, ranking: str, experts: int = 8, *, mtp: bool = False) -> DropMap:
        base = tmp_path / "base"
        if not base.exists():
            model = getattr(family_models, family)()
            randomize(model)  # so that routing differs from token to token
            model.save_pretrained(base)
            save_tokenizer(base)
            write_rows(tmp_path / "c.jsonl", [row(number) for number in range(6)])
            if mtp:
                family_models.rewrite(base, lambda tensors: with_mtp(tensors, "model.language_model.", "1", "mtp.layers.0."))
        manifest = tmp_path / "x.yaml"
        manifest.write_text(
            f"schema: moe-release/v1\nname: x\nbase: {{path: base}}\nprune:\n  experts: {experts}\n"
            f"  analysis: {{dataset: c.jsonl, gates: {GATES}}}\n  ranking: {ranking}\n"
        )
        context = Context(load_manifest(manifest), tmp_path / "work", Options(until="rank", workers=2))
        run_pipeline(context)
        return read_drop_map(tmp_path / "work/drop_map.json")

    return rank


def test_a_router_with_expert_groups_gets_a_map_that_fits(ranked: Measured, tmp_path: Path) -> None:
    """DeepSeek-V3: four groups of four experts, of which the router picks two."""
    even = ranked("deepseek_v3", "{method: reap}")
    architecture = open_checkpoint(tmp_path / "base").architecture
    assert surviving_groups(even.drop, architecture, "even") == 4
    whole = ranked("deepseek_v3", "{method: reap, groups: whole}", experts=12)
    assert surviving_groups(whole.drop, architecture, "whole") == 3
    assert whole.provenance["ranking"] == {"method": "reap", "tokens": "all", "groups": "whole"}
    for ranking, experts, message in (
        ("{method: reap}", 10, "cannot be spread evenly over the base's 4 expert groups"),
        ("{method: reap, groups: whole}", 10, "no number of whole expert groups of 4 experts"),
        ("{method: reap, groups: whole}", 8, "leaves 2 expert groups, the router picks 2"),
        ("{method: coverage, protect: 17}", 8, "17 experts cannot be protected, a layer has 16"),
    ):
        with pytest.raises(InputError, match=message):
            ranked("deepseek_v3", ranking, experts)


def test_a_multi_token_prediction_block_follows_the_last_layer_or_is_refused(ranked: Measured) -> None:
    with pytest.raises(InputError, match=r"layer mtp is missing; .* say which to drop \(a ranking: mtp: same_as_last\)"):
        ranked("qwen3_5_moe", "{method: reap}", mtp=True)
    found = ranked("qwen3_5_moe", "{method: reap, mtp: same_as_last}", mtp=True)
    assert list(found.drop) == ["0", "1", "mtp"]
    assert found.drop["mtp"] == found.drop["1"] != found.drop["0"]
    assert found.provenance["ranking"]["mtp"] == "same_as_last"
