"""Cards and plans of real variants from headers alone.

The golden cards are files that a reviewer reads.  After a change that is meant to change them:

    MOE_RELEASE_REFRESH_GOLDEN=1 python -m pytest tests/release/actions/test_header_card.py -k golden
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pruner.checkpoint import open_checkpoint
from pruner.errors import InputError
from release.base_headers import described_base
from release.card.lint.run import lint_file
from release.cli import app
from release.manifest import load_manifest
from tests.conftest import MANIFESTS
from tests.pruner.sparse import gemma4_26b_a4b, sparse_checkpoint

GOLDEN = Path(__file__).parent.parent / "card" / "golden"
VARIANTS = ("gemma-4-A4B-109e-v3", "gemma-4-A4B-109e-v2", "gemma-4-A4B-120e-v4", "qwen3-30B-A3B-96e")
REFRESH = "MOE_RELEASE_REFRESH_GOLDEN"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_words: object, **_options: object) -> None:
        raise AssertionError("headers need no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def run(*words: str | Path) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("name", VARIANTS)
def test_real_variants_are_checked_planned_and_rendered_without_their_base(name: str, tmp_path: Path) -> None:
    manifest = MANIFESTS / f"{name}.yaml"
    assert "a valid manifest" in run("check", manifest)
    plan = json.loads(run("plan", manifest, "--from-headers", "--work", tmp_path, "--json"))
    assert plan["drop_map_digest"] is plan["ranges"] is None
    card = Path(run("card", manifest, "--from-headers", "--work", tmp_path).strip())
    assert lint_file(card) == ()
    assert f"{plan['parameters']['variant'] / 1e9:.2f} B" in card.read_text()
    assert "Nothing was built and nothing was measured here." in card.read_text()


def test_the_numbers_are_those_of_the_published_models(tmp_path: Path) -> None:
    def plan(name: str) -> dict[str, dict[str, int]]:
        plan: dict[str, dict[str, int]] = json.loads(run("plan", MANIFESTS / f"{name}.yaml", "--from-headers", "--json"))
        return plan

    gemma = plan("gemma-4-A4B-109e-v3")
    assert gemma["tensor_bytes"] == {"base": 51_611_867_804, "variant": 44_828_629_544}
    assert gemma["parameters"]["base"] - gemma["parameters"]["variant"] == 3_391_619_130
    assert len(gemma["shards"]) == 9
    qwen = plan("qwen3-30B-A3B-96e")
    assert qwen["parameters"]["base"] == 30_532_122_624
    assert qwen["parameters"]["base"] - qwen["parameters"]["variant"] == 48 * 32 * (3 * 768 * 2048 + 2048)


def test_a_description_stands_for_the_headers_that_files_have(tmp_path: Path) -> None:
    described = open_checkpoint(described_base(MANIFESTS / "headers" / "gemma-4-26B-A4B-it.yaml"))
    written = open_checkpoint(sparse_checkpoint(tmp_path / "base", *gemma4_26b_a4b()))
    shapes = [{name: each.info.shape for name, each in base.tensors.items()} for base in (described, written)]
    assert shapes[0] == shapes[1]
    assert described.architecture == written.architecture
    with pytest.raises(InputError, match="holds headers, no tensor data; a build needs the base itself"):
        described.source.read(described.shards[0], 10_000_000, 1)


@pytest.mark.parametrize("name", ["README.md", "results.md"])
def test_the_golden_card_of_109e_v3(name: str, tmp_path: Path) -> None:
    run("card", MANIFESTS / "gemma-4-A4B-109e-v3.yaml", "--from-headers", "--work", tmp_path)
    golden = GOLDEN / "gemma-4-A4B-109e-v3" / name
    rendered = (tmp_path / "draft" / name).read_bytes()
    if os.environ.get(REFRESH):
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_bytes(rendered)
    assert rendered == golden.read_bytes()


def test_own_templates_that_change_nothing_change_nothing(tmp_path: Path) -> None:
    """They are rendered in another process, to which every fact of a card can be sent."""
    shutil.copytree(MANIFESTS, tmp_path / "manifests")
    (tmp_path / "manifests" / "mine").mkdir()
    for name in ("weights_card.md.j2", "results_table.md.j2"):
        (tmp_path / "manifests" / "mine" / name).write_text(f'{{% extends "{name}" %}}')
    manifest = tmp_path / "manifests" / "gemma-4-A4B-109e-v3.yaml"
    assert manifest.read_text().count("card: {") == 1
    manifest.write_text(manifest.read_text().replace("card: {", "card: {templates: mine, "))
    run("card", manifest, "--from-headers", "--work", tmp_path)
    for name in ("README.md", "results.md"):
        assert (tmp_path / "draft" / name).read_bytes() == (GOLDEN / "gemma-4-A4B-109e-v3" / name).read_bytes()


def test_what_is_unknown_is_said_and_stops_a_build(tmp_path: Path) -> None:
    manifest = MANIFESTS / "gemma-4-A4B-109e-v3.yaml"
    said = run("check", manifest)
    assert "cannot be built: the commit of google/gemma-4-26B-A4B-it is UNKNOWN" in said
    assert "cannot be built: the drop map is absent: " in said
    with pytest.raises(InputError, match=r"the drop map .* is absent: .*; nothing can be built without it"):
        CliRunner().invoke(app, ["plan", str(manifest), "--work", str(tmp_path)], catch_exceptions=False)
    with pytest.raises(InputError, match="it is UNKNOWN; the drop map is absent: "):
        CliRunner().invoke(app, ["prune", str(manifest), "--work", str(tmp_path / "w")], catch_exceptions=False)


def test_only_a_description_of_headers_excuses_a_missing_commit(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("schema: moe-release/v1\nname: x\nbase: {repo: org/base}\n")
    with pytest.raises(InputError, match="a repo needs its revision"):
        load_manifest(path)


def test_a_pinned_map_that_is_missing_without_a_word_is_an_error(tmp_path: Path) -> None:
    shutil.copytree(MANIFESTS / "headers", tmp_path / "headers")
    path = tmp_path / "m.yaml"
    path.write_text(
        "schema: moe-release/v1\nname: x\nbase: {repo: org/base, headers: {path: headers/gemma-4-26B-A4B-it.yaml}}\n"
        "prune: {experts: 109, drop_map: {path: map.json}}\n"
    )
    with pytest.raises(InputError, match=r"map.json does not exist beside the manifest"):
        CliRunner().invoke(app, ["card", str(path), "--from-headers", "--work", str(tmp_path)], catch_exceptions=False)


def test_a_map_that_is_here_gives_its_digest_and_its_overlap_with_earlier_ones(tmp_path: Path) -> None:
    shutil.copytree(MANIFESTS / "headers", tmp_path / "headers")
    for name, first in (("new", 0), ("old", 10)):
        drop = {str(layer): list(range(first, first + 19)) for layer in range(30)}
        (tmp_path / f"{name}.json").write_text(json.dumps(drop))
    path = tmp_path / "m.yaml"
    path.write_text(
        "schema: moe-release/v1\nname: x\nbase: {repo: org/base, headers: {path: headers/gemma-4-26B-A4B-it.yaml}}\n"
        "prune: {experts: 109, drop_map: {path: new.json}}\ncard: {earlier_maps: {x | v0: {path: old.json}}}\n"
    )
    card = Path(run("card", path, "--from-headers", "--work", tmp_path / "w").strip())
    assert "| x \\| v0 | 570 | 270 | 47.37 % | 300 |" in card.read_text()
    assert "digest of the drop map: `" in card.read_text()
    assert lint_file(card) == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("count: 30", "count: 30000"), "less than or equal to 4096"),
        (("count: 30", "count: 4000"), ""),
        (("[128, 1408, 2816]", "[-1]"), "greater than 0"),
        (("dtype", "dtyp"), "unknown key"),
        (("num_experts: 128", "num_experts: many"), "num_experts is 'many'"),
    ],
)
def test_a_bad_description_is_refused_in_one_line(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    text = (MANIFESTS / "headers" / "gemma-4-26B-A4B-it.yaml").read_text().replace("config:", "dtype: BF16\nconfig:", 1)
    path = tmp_path / "h.yaml"
    path.write_text(text.replace(*change))
    if message:
        with pytest.raises(InputError, match=message):
            open_checkpoint(described_base(path))
    else:
        assert len(described_base(path).shapes) < 200_000


def test_a_model_without_dense_layers_has_no_dense_size(tmp_path: Path) -> None:
    texts = [Path(run("card", MANIFESTS / f"{name}.yaml", "--from-headers", "--work", tmp_path / name).strip()).read_text()
             for name in ("qwen3-30B-A3B-96e", "gemma-4-A4B-109e-v3")]  # fmt: skip
    assert [("| Expert intermediate size | 768 |" in text, "Dense intermediate size" in text) for text in texts] == [
        (True, False),
        (False, True),
    ]


def test_runs_that_a_card_from_headers_leaves_out_are_named(tmp_path: Path) -> None:
    shutil.copytree(MANIFESTS, tmp_path / "m")
    path = tmp_path / "m" / "gemma-4-A4B-109e-v3.yaml"
    run_of = "  - {label: ours, evidence: {path: tiny/evidence/tiny-gemma4-16e-Q6_K.json}}\n"
    path.write_text(path.read_text().replace("card: {", f"{run_of}card: {{"))
    card = Path(run("card", path, "--from-headers", "--work", tmp_path / "w").strip())
    said = "- the score of ours is left out: it is of a run, tiny/evidence/tiny-gemma4-16e-Q6_K.json\n"
    assert said in card.read_text()
