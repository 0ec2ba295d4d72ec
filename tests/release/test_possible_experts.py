"""What a base cannot fulfil, and what a manifest's files lack, is found by `check`; nothing is built or fetched for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from pruner.checkpoint import open_checkpoint
from pruner.errors import InputError
from release.cli import app
from release.manifest import load_manifest
from release.possible_experts import require_possible
from tests.conftest import gemma4_config

MANIFEST = (
    "schema: moe-release/v1\nname: v\nbase: {path: base}\n"
    "prune:\n  experts: 6\n  analysis: {dataset: {path: c.jsonl}}\n  ranking: {method: reap}\ncard: {license: mit}\n"
)


@pytest.fixture
def manifest(make_checkpoint: Callable[[], Path], tmp_path: Path) -> Path:
    make_checkpoint()
    columns = ("Question", "Explanation", "Correct Answer", *(f"Incorrect Answer {number}" for number in (1, 2, 3)))
    (tmp_path / "c.jsonl").write_text(json.dumps({column: column for column in columns}) + "\n")
    (tmp_path / "v.yaml").write_text(MANIFEST)
    return tmp_path / "v.yaml"


def check(manifest: Path, old: str = "", new: str = "") -> Result:
    assert old in MANIFEST
    manifest.write_text(MANIFEST.replace(old, new, 1) if old else MANIFEST)
    return CliRunner().invoke(app, ["check", str(manifest)])


def assert_refused(result: Result, message: str) -> None:
    """The error as the command line shows it: InputError is exit code 2 and one line."""
    assert isinstance(result.exception, InputError), result.output
    assert message in str(result.exception)


IMPOSSIBLE = [
    ("experts: 6", "experts: 99", "5:3: prune.experts is 99, the base has 8; nothing to remove"),
    ("experts: 6", "experts: 8", "5:3: prune.experts is 8, the base has 8; nothing to remove"),
    ("experts: 6", "experts: 1", "5:3: prune.experts is 1, the router picks 2 for each token"),
    ("{method: reap}", "{method: reap, pins: {0: [8]}}", "7:27: prune.ranking.pins: layer 0 has experts 0 to 7, not 8"),
    ("{method: reap}", "{method: reap, pins: {3: [0]}}", "7:27: prune.ranking.pins: the base has no MoE layer 3"),
    ("{method: reap}", "{method: reap, pins: {0: [0, 1, 2, 3, 4, 5, 6]}}", "layer 0 pins 7 experts, prune.experts keeps 6"),
    ("{method: reap}", "{method: reap, floors: {experts: 7}}", "prune.ranking.floors: asks for 7 experts"),
    ("{method: reap}", "{method: reap, groups: even}", "prune.ranking.groups: the base's router has no expert groups"),
    ("{method: reap}", "{method: coverage, protect: 9}", "7:31: prune.ranking.protect: 9 experts cannot be protected"),
]


@pytest.mark.parametrize(("old", "new", "message"), IMPOSSIBLE)
def test_check_compares_with_the_base_at_hand(manifest: Path, old: str, new: str, message: str) -> None:
    result = check(manifest, old, new)
    assert_refused(result, message)


def test_a_base_that_is_not_here_is_not_asked_for(
    manifest: Path, make_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = manifest.parent / "hub/models--a--b/snapshots" / ("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(manifest.parent / "hub"))
    remote = f"{{repo: a/b, revision: {'a' * 40}}}"
    text = MANIFEST.replace("{path: base}", remote).replace("experts: 6", "experts: 99").replace("card: {license: mit}\n", "")
    manifest.write_text(text)
    result = CliRunner().invoke(app, ["check", str(manifest)])
    assert (result.exit_code, result.stderr) == (0, "")
    cached.parent.mkdir(parents=True)
    make_checkpoint("snapshot", config=gemma4_config()).rename(cached)
    result = CliRunner().invoke(app, ["check", str(manifest)])
    assert_refused(result, "prune.experts is 99, the base has 8")


def test_the_layers_of_the_headers_are_the_exact_ones(manifest: Path) -> None:
    manifest.write_text(MANIFEST.replace("{method: reap}", "{method: reap, pins: {2: [0]}}"))
    base = open_checkpoint(manifest.parent / "base")
    require_possible(load_manifest(manifest), base.architecture, base.layers)
    with pytest.raises(InputError, match="no MoE layer 2"):
        require_possible(load_manifest(manifest), base.architecture, ("0", "1"))


def test_a_base_by_path_without_a_license_is_a_warning(manifest: Path) -> None:
    result = check(manifest, "card: {license: mit}\n", "")
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: ")
    assert "give card.license" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert check(manifest).stderr == ""
    (manifest.parent / "base/README.md").write_text("---\nlicense: mit\n---\n")
    assert check(manifest, "card: {license: mit}\n", "").stderr == ""


def test_a_license_that_the_hub_has_no_id_for_is_a_warning(manifest: Path) -> None:
    result = check(manifest, "license: mit", "license: apache2")
    assert result.exit_code == 0
    odd = "'apache2' is no license id of the Hub's; did you mean 'apache-2.0'?"
    assert f"card.license: {odd}" in result.stderr
    (manifest.parent / "base/README.md").write_text("---\nlicense: apache2\n---\n")
    assert check(manifest, "card: {license: mit}\n", "").stderr == f"warning: the base's card: {odd}\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "card:",
            "gguf: {quants: [Q9_K]}\ncard:",
            "8:17: gguf.quants.0: unknown quantization type 'Q9_K'; did you mean 'Q6_K'",
        ),
        ("card:", "gguf: {quants: [{name: A-Q6_K, type: Q6K}]}\ncard:", "gguf.quants.0.type: unknown quantization type 'Q6K'"),
        ("c.jsonl", "d.jsonl", "6:24: prune.analysis.dataset.path: d.jsonl does not exist beside the manifest"),
        ("path: base", "path: bass", "3:8: base.path: 'bass' is no folder beside the manifest; did you mean 'base'?"),
        ("license: mit", "prose: v.md", "8:8: card.prose: v.md does not exist beside the manifest"),
        ("card:", "gguf: {quants: [Q6_K]}\neval: {protocol: p, quants: [Q6_K]}\ncard:", "9:8: eval.protocol: p does not exist"),
    ],
)
def test_what_a_manifest_names_and_nobody_has_stands_at_its_key(manifest: Path, old: str, new: str, message: str) -> None:
    result = check(manifest, old, new)
    assert_refused(result, message)


PINNED = (
    "schema: moe-release/v1\nname: v\nbase: {path: base}\nprune: {experts: 6, drop_map: {path: m.json}}\ncard: {license: mit}\n"
)


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        ({0: [0, 1], 1: [0, 1]}, "m.json: 2 layers, the base has 3 with experts"),
        ({0: [0, 1], 1: [0, 1], 2: [0]}, "m.json: layers drop between 1 and 2 experts"),
        ({0: [0, 1], 1: [0, 1], 2: [0, 8]}, "m.json: layer 2"),
        ({layer: [0] for layer in range(3)}, "m.json: the drop map keeps 7 experts per layer, the manifest says 6"),
        ({layer: [0, 1, 2, 3, 4, 5] for layer in range(3)}, "the manifest says 6; a map names the experts to drop"),
    ],
)
def test_check_holds_a_pinned_map_against_the_base(manifest: Path, drop: dict[int, list[int]], message: str) -> None:
    (manifest.parent / "m.json").write_text(json.dumps(drop))
    manifest.write_text(PINNED)
    assert_refused(CliRunner().invoke(app, ["check", str(manifest)]), message)


def test_check_accepts_a_pinned_map_that_fits(manifest: Path) -> None:
    (manifest.parent / "m.json").write_text(json.dumps({layer: [0, layer + 1] for layer in range(3)}))
    manifest.write_text(PINNED)
    assert CliRunner().invoke(app, ["check", str(manifest)]).exit_code == 0


def test_weights_and_quants_are_two_repositories(manifest: Path) -> None:
    manifest.write_text(f"{PINNED}gguf: {{quants: [Q6_K]}}\npublish: {{weights: me/x, gguf: Me/X}}\n")
    assert_refused(CliRunner().invoke(app, ["check", str(manifest)]), "publish.weights and publish.gguf name one repository")
