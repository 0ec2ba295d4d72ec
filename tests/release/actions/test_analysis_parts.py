"""Shards, merging and folds on the command line, with the tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from pruner.drop_map import read_drop_map
from pruner.errors import CheckFailedError, InputError
from release.actions.analysis_parts import merge_parts
from release.cli import app

pytest.importorskip("torch", reason="needs the analysis extra")
pytestmark = pytest.mark.torch

QUESTIONS = 8
MANIFEST = (
    "schema: moe-release/v1\nname: x\nbase: {path: tiny/model}\nprune:\n  experts: 4\n"
    "  analysis: {dataset: {path: c.jsonl}, gates: {max_unrouted: 0.5}}\n  ranking: {method: coverage, protect: 2}\n"
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, manifests: Path) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    shutil.copytree(manifests / "tiny" / "model", folder / "tiny" / "model")
    lines = (manifests / "tiny/exam/calibration.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "c.jsonl").write_text("".join(lines[:QUESTIONS]), encoding="utf-8")
    (folder / "x.yaml").write_text(MANIFEST)
    return folder / "x.yaml"


def run_cli(*words: Any) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def said(*words: Any) -> str:
    result = run_cli(*words)
    assert result.exit_code == 0
    return result.stdout


@pytest.fixture(scope="module")
def work(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder in which everything was measured in one run."""
    folder = tmp_path_factory.mktemp("whole") / "work"
    said("rank", manifest, "--work", folder, "--workers", 1)
    return folder


@pytest.mark.parametrize("offload", ["none", "layers"])
def test_shards_on_three_machines_join_to_the_bytes_of_one_run(
    manifest: Path, work: Path, tmp_path: Path, offload: str
) -> None:
    parts = []
    for index in range(3):
        parts.append(tmp_path / f"part-{index}.safetensors")
        words = ("--shard", f"{index}/3", "--out", parts[-1], "--workers", 1 + index % 2, "--offload", offload)
        line = said("analyze", manifest, "--work", tmp_path / f"machine-{index}", *words)
        assert f"({len(range(index, QUESTIONS, 3))} of {QUESTIONS} questions)" in line
        assert not (tmp_path / f"machine-{index}" / "expert_statistics.safetensors").exists()
    joined = tmp_path / "joined.safetensors"
    assert f"({QUESTIONS} of {QUESTIONS} questions)" in said("merge", *reversed(parts), "--out", joined)
    assert joined.read_bytes() == (work / "expert_statistics.safetensors").read_bytes()
    with pytest.raises(CheckFailedError, match=f"holds {QUESTIONS} questions, more than these {len(range(0, QUESTIONS, 3))};"):
        merge_parts(parts[:1], joined)
    assert joined.read_bytes() == (work / "expert_statistics.safetensors").read_bytes()


def test_a_shard_is_not_measured_for_a_file_that_holds_more(
    manifest: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("release.actions.analysis_parts.measure", lambda *_words: pytest.fail("it was measured"))
    whole = tmp_path / "whole.safetensors"
    whole.write_bytes((work / "expert_statistics.safetensors").read_bytes())
    words = ("analyze", manifest, "--work", tmp_path / "machine", "--shard", "0/3", "--out", whole)
    result = CliRunner().invoke(app, list(map(str, words)))
    assert isinstance(result.exception, CheckFailedError)
    assert f"holds {QUESTIONS} questions, more than these {len(range(0, QUESTIONS, 3))};" in str(result.exception)


def test_merged_statistics_are_taken_and_others_are_not(
    manifest: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pruner.analysis import run

    def refuse(*_words: object) -> None:
        raise AssertionError("a question was measured again")

    (tmp_path / "work").mkdir()
    statistics = tmp_path / "work" / "expert_statistics.safetensors"
    original = (work / "expert_statistics.safetensors").read_bytes()
    statistics.write_bytes(original)
    with monkeypatch.context() as patch:
        patch.setattr(run, "measure_question", refuse)
        said("rank", manifest, "--work", tmp_path / "work")
    assert (tmp_path / "work/drop_map.json").read_bytes() == (work / "drop_map.json").read_bytes()
    said("analyze", manifest, "--work", tmp_path / "other", "--shard", "0/2", "--out", tmp_path / "half")
    half = (tmp_path / "half").read_bytes()
    shorter = original.replace(b'\\"max_tokens\\":4096', b'\\"max_tokens\\":4095')
    assert shorter != original
    for content, message in (
        (half, "holds 4 of the 8 questions; merge what belongs here, or remove it to measure anew"),
        (shorter, "was not measured as the manifest says, it differs in max_tokens"),
        (original[:-5], "the expert statistics cannot be read"),
        (b"", "the expert statistics cannot be read"),
    ):
        shutil.rmtree(tmp_path / "work")
        (tmp_path / "work").mkdir()
        statistics.write_bytes(content)
        with pytest.raises(InputError, match=message):
            run_cli("analyze", manifest, "--work", tmp_path / "work")
        assert statistics.read_bytes() == content, "hours of somebody's work are not overwritten"


def test_statistics_of_another_machine_are_taken_with_a_note(
    manifest: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pruner.analysis import run

    (tmp_path / "work").mkdir()
    statistics = tmp_path / "work" / "expert_statistics.safetensors"
    original = (work / "expert_statistics.safetensors").read_bytes()
    content = original.replace(b'\\"device\\":\\"cpu\\"', b'\\"device\\":\\"xpu\\"')
    assert content != original
    statistics.write_bytes(content)
    monkeypatch.setattr(run, "load_measured", None)  # the base is not even loaded
    result = run_cli("rank", manifest, "--work", tmp_path / "work")
    assert "taken as measured elsewhere, with another device" in result.output
    assert statistics.read_bytes() == content


def test_what_the_stage_made_itself_is_made_again(manifest: Path, work: Path, tmp_path: Path) -> None:
    """For another manifest, and when it was damaged; a person's file that replaced it is still a person's."""
    shutil.copytree(work, tmp_path / "work")
    statistics = tmp_path / "work" / "expert_statistics.safetensors"
    original = statistics.read_bytes()
    statistics.write_bytes(original[:-5])
    said("analyze", manifest, "--work", tmp_path / "work")
    assert statistics.read_bytes() == original
    other = manifest.with_name("shorter.yaml")
    other.write_text(MANIFEST.replace("c.jsonl}", "c.jsonl}, max_tokens: 4095"))
    said("analyze", other, "--work", tmp_path / "work")
    changed = statistics.read_bytes()
    assert b'\\"max_tokens\\":4095' in changed
    statistics.write_bytes(original)
    with pytest.raises(InputError, match="differs in max_tokens"):
        run_cli("analyze", other, "--work", tmp_path / "work")
    assert statistics.read_bytes() == original


def test_a_pinned_fold_saw_the_other_questions_alone(manifest: Path, work: Path, tmp_path: Path) -> None:
    """So the overlap with the exam that a card shows is that of the map, and not of its calibration set."""
    from pruner.folds import fold_of
    from pruner.statistics import read_statistics
    from release.context import Context, Options
    from release.manifest import load_manifest
    from release.stages.evaluate import calibration_digests

    said("rank", manifest, "--work", work, "--folds", 3)
    shutil.copy(work / "folds" / "drop_map.fold-1-of-3.json", manifest.with_name("fold.json"))
    pinned = manifest.with_name("fold.yaml")
    start = MANIFEST.index("  analysis:")
    pinned.write_text(MANIFEST[:start] + "  drop_map: {path: fold.json}\n  calibration: {dataset: {path: c.jsonl}}\n")
    said("rank", pinned, "--work", tmp_path / "work")
    every = read_statistics(work / "expert_statistics.safetensors").header.questions
    seen = calibration_digests(Context(load_manifest(pinned), tmp_path / "work", Options()))
    assert seen == tuple(each for each in every if fold_of(each, 3) != 1)
    assert 0 < len(seen) < len(every)


def test_a_fold_that_fails_a_gate_is_no_map(manifest: Path, work: Path, tmp_path: Path) -> None:
    """Without one fold's questions the rest reach fewer experts than all of them together."""
    from pruner.folds import fold_of
    from pruner.ranking import gate_report
    from pruner.statistics import read_statistics

    statistics = read_statistics(work / "expert_statistics.safetensors")
    shares = [
        gate_report(
            statistics, weights=np.array([float(fold_of(each, 3) != fold) for each in statistics.header.questions])
        ).unrouted
        for fold in range(3)
    ]
    whole = gate_report(statistics).unrouted
    worst = max(range(3), key=lambda fold: shares[fold])
    assert shares[worst] > whole, "no fold is worse than the whole: the test shows nothing"
    strict = manifest.with_name("strict.yaml")
    strict.write_text(MANIFEST.replace("max_unrouted: 0.5", f"max_unrouted: {whole}"))
    shutil.copytree(work, tmp_path / "work")
    with pytest.raises(CheckFailedError, match=r"fold \d of 3: .* of the experts were never reached"):
        run_cli("rank", strict, "--work", tmp_path / "work", "--folds", 3)


def test_folds_are_maps_that_left_their_questions_out(manifest: Path, work: Path) -> None:
    from pruner.folds import fold_of
    from pruner.ranking import coverage, keep_experts
    from pruner.statistics import read_statistics, select

    before = (work / "drop_map.json").read_bytes()
    said("rank", manifest, "--work", work, "--folds", 3)
    statistics = read_statistics(work / "expert_statistics.safetensors")
    used = []
    for index in range(3):
        path = work / "folds" / f"drop_map.fold-{index}-of-3.json"
        rows = [row for row, digest in enumerate(statistics.header.questions) if fold_of(digest, 3) != index]
        kept = keep_experts(coverage(select(statistics, rows), 2), 4)
        found = read_drop_map(path)
        assert [found.keep(layer, 16) for layer in found.drop] == list(kept)
        assert found.provenance["fold"]["index"] == index
        assert found.provenance["statistics"]["questions"] == len(rows)
        used.append(len(rows))
    assert sum(QUESTIONS - number for number in used) == QUESTIONS, "every question is left out once"
    assert (work / "drop_map.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("analyze", "--shard", "3/3", "--out", "x"), "--shard 3/3: write i/n"),
        (("analyze", "--shard", "a", "--out", "x"), "--shard a: write i/n"),
        (("analyze", "--shard", "0/9", "--out", "x"), "n at most the 8 questions"),
        (("analyze", "--shard", "0/2"), "--shard and --out go together"),
        (("analyze", "--out", "x"), "--shard and --out go together"),
    ],
)
def test_refusals(words: tuple[str, ...], message: str, manifest: Path, work: Path, monkeypatch: pytest.MonkeyPatch,
                  tmp_path: Path) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        CliRunner().invoke(app, [words[0], str(manifest), "--work", str(work), *words[1:]], catch_exceptions=False)
    assert not (tmp_path / "x").exists()


def test_a_pinned_map_has_neither_shards_nor_folds(manifest: Path, tmp_path: Path) -> None:
    pinned = manifest.with_name("pinned.yaml")
    start = MANIFEST.index("  analysis:")
    pinned.write_text(MANIFEST[:start] + "  drop_map: {path: map.json}\n")
    manifest.with_name("map.json").write_text(json.dumps({str(layer): list(range(12)) for layer in range(4)}))
    for words, message in (
        (("analyze", "--shard", "0/2", "--out", str(tmp_path / "x")), "prune.analysis is missing"),
        (("rank", "--folds", "2"), "--folds needs prune.analysis"),
    ):
        with pytest.raises(InputError, match=message):
            CliRunner().invoke(
                app, [words[0], str(pinned), "--work", str(tmp_path / "work"), *words[1:]], catch_exceptions=False
            )


def test_parts_that_do_not_belong_together(manifest: Path, tmp_path: Path) -> None:
    said("analyze", manifest, "--work", tmp_path / "work", "--shard", "0/8", "--out", tmp_path / "one")
    with pytest.raises(InputError, match="a question stands in two parts"):
        CliRunner().invoke(
            app, ["merge", str(tmp_path / "one"), str(tmp_path / "one"), "--out", str(tmp_path / "x")], catch_exceptions=False
        )
    with pytest.raises(InputError, match="none: does not exist; `moe-release analyze` makes expert statistics"):
        CliRunner().invoke(app, ["merge", str(tmp_path / "none"), "--out", str(tmp_path / "x")], catch_exceptions=False)
    assert not (tmp_path / "x").exists()
