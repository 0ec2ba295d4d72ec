"""The rank stage on real statistics: the map, the finding, and the report beside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pruner.drop_map import read_drop_map
from pruner.errors import CheckFailedError, InputError
from pruner.files import sha256_file
from release.context import Context, Options
from release.manifest import load_manifest
from release.pipeline import run_pipeline

pytest.importorskip("torch", reason="needs the analysis extra")
pytestmark = pytest.mark.torch

QUESTIONS = 24


def manifest_text(**changes: str) -> str:
    values = {"ranking": "{method: coverage, protect: 2}", "gates": "{max_unrouted: 0.25}", **changes}
    return (
        "schema: moe-release/v1\nname: x\nbase: {path: tiny/model}\nprune:\n  experts: 4\n"
        f"  analysis: {{dataset: {{path: c.jsonl}}, gates: {values['gates']}}}\n  ranking: {values['ranking']}\n"
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, manifests: Path) -> Path:
    """A manifest's folder whose statistics are measured once."""
    made = tmp_path_factory.mktemp("rank")
    shutil.copytree(manifests / "tiny" / "model", made / "tiny" / "model")
    lines = (manifests / "tiny/exam/calibration.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (made / "c.jsonl").write_text("".join(lines[:QUESTIONS]), encoding="utf-8")
    return made


def run(folder: Path, **changes: str) -> tuple[dict[str, Any], str]:
    """The ranking report and what the stage said."""
    (folder / "x.yaml").write_text(manifest_text(**changes))
    context = Context(load_manifest(folder / "x.yaml"), folder / "work", Options(until="rank", workers=2))
    result = run_pipeline(context)[-1]
    return json.loads((folder / "work/ranking_report.json").read_text()), result.detail


def test_the_finding_says_what_is_settled(folder: Path) -> None:
    report, said = run(folder)
    assert report["drops"] == 4 * 12
    assert report["questions"] == QUESTIONS
    assert 0 < report["settled"] <= 48 - report["coin_flips"]
    likely = 48 - report["settled"] - report["coin_flips"]
    assert f"of 48 drops {report['settled']} are settled, {likely} likely, {report['coin_flips']} coin flips" in said
    assert f"over {QUESTIONS} questions" in said
    shares = report["dropped_share"]
    assert sorted(shares) == ["0", "1", "2", "3"]
    for layer, ids in read_drop_map(folder / "work/drop_map.json").drop.items():
        assert sum(shares[layer]) == pytest.approx(12, abs=0.01)
        assert sum(shares[layer][expert] >= 0.95 for expert in ids) <= 12
    assert report["gates"]["truncated"] == 0


def test_the_report_repeats_itself_and_is_no_part_of_the_map(folder: Path) -> None:
    run(folder)
    files = [folder / "work" / name for name in ("ranking_report.json", "drop_map.json")]
    before = [sha256_file(file) for file in files]
    for file in files:
        file.unlink()
    run(folder)
    assert [sha256_file(file) for file in files] == before
    assert "settled" not in files[1].read_text()


def test_a_knob_that_turns_nothing_is_said(folder: Path) -> None:
    report, said = run(folder, ranking="{method: coverage, protect: 2, pins: {0: [0]}, floors: {experts: 1}}")
    assert {"floors", "pins"} <= set(report["inert"])
    assert "floors" in said
    assert "cannot change this map" in said


def test_pins_reach_the_map_and_its_origin(folder: Path) -> None:
    report, _ = run(folder, ranking="{method: coverage, protect: 2, pins: {1: [9, 11]}}")
    found = read_drop_map(folder / "work/drop_map.json")
    assert not {9, 11} & set(found.drop["1"])
    assert {9, 11} <= set(found.drop["2"])
    assert found.provenance["ranking"]["pins"] == {"1": [9, 11]}
    assert "pins" not in report["inert"]


def test_class_weights_read_the_sets_own_column(folder: Path) -> None:
    column = "class_weights: {column: High-level domain, weights: {Botany: 0}}"
    run(folder, ranking=f"{{method: score, alpha: 1000, {column}}}")
    one = read_drop_map(folder / "work/drop_map.json")
    run(folder, ranking="{method: score, alpha: 1000}")
    assert read_drop_map(folder / "work/drop_map.json").digest != one.digest
    with pytest.raises(InputError, match="no question is of class 'Alchemy'; the classes are Botany"):
        run(folder, ranking=f"{{method: reap, {column.replace('Botany', 'Alchemy')}}}")
    with pytest.raises(InputError, match="column 'Field' is missing"):
        run(folder, ranking=f"{{method: reap, {column.replace('High-level domain', 'Field')}}}")


def test_a_knob_that_the_base_has_no_use_for_is_said(folder: Path) -> None:
    report, said = run(folder, ranking="{method: coverage, protect: 2, mtp: same_as_last}")
    assert "mtp" in report["inert"]
    assert "mtp cannot change this map" in said or "mtp, " in said


def test_a_pinned_maps_questions_are_held_against_its_own_word(folder: Path) -> None:
    """The map says what it was made from; the manifest may name the same set in another file, and no other set."""
    run(folder)
    shutil.copy(folder / "work/drop_map.json", folder / "map.json")
    rows = (folder / "c.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "turned.jsonl").write_text("\n".join(reversed(rows)), encoding="utf-8")
    (folder / "other.jsonl").write_text("\n".join(rows[:-1]), encoding="utf-8")

    def pinned(dataset: str) -> None:
        (folder / "pinned.yaml").write_text(
            "schema: moe-release/v1\nname: pinned\nbase: {path: tiny/model}\nprune:\n  experts: 4\n"
            f"  drop_map: {{path: map.json}}\n  calibration: {{dataset: {dataset}}}\n"
        )
        run_pipeline(Context(load_manifest(folder / "pinned.yaml"), folder / "pinned", Options(until="rank")))

    pinned("c.jsonl")
    pinned("turned.jsonl")
    with pytest.raises(InputError, match=r"map\.json: was made from other questions than other\.jsonl; name its own set"):
        pinned("other.jsonl")


def test_a_pinned_map_takes_no_ranking(folder: Path) -> None:
    (folder / "both.yaml").write_text(
        "schema: moe-release/v1\nname: both\nbase: {path: tiny/model}\n"
        "prune: {experts: 4, drop_map: {path: map.json}, ranking: {method: reap, mtp: same_as_last}}\n"
    )
    with pytest.raises(InputError, match="ranking belongs to an analysis; a pinned drop_map is taken as it is"):
        load_manifest(folder / "both.yaml")


def test_questions_of_a_class_that_counts_nothing_pass_no_gate(folder: Path) -> None:
    column = "class_weights: {column: High-level domain, weights: {Botany: 0}}"
    report, _ = run(folder, ranking="{method: reap}")
    gates = f"{{max_unrouted: {report['gates']['unrouted']}}}"
    run(folder, ranking="{method: reap}", gates=gates)
    with pytest.raises(CheckFailedError, match="of the experts were never reached"):
        run(folder, ranking=f"{{method: reap, {column}}}", gates=gates)


def test_a_failed_gate_stops_the_stage_with_its_numbers(folder: Path) -> None:
    with pytest.raises(CheckFailedError, match=r"ranking experts: .* of the experts were never reached \(at most 0\.00%\)"):
        run(folder, gates="{max_unrouted: 0}")


def test_a_ranking_without_options_writes_the_map_that_it_always_wrote(folder: Path) -> None:
    run(folder)
    content = json.loads((folder / "work/drop_map.json").read_text())
    assert content["ranking"] == {"method": "coverage", "protect": 2, "tokens": "all"}
