"""Lines that the console prints about one of something, and about what a run left out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from release.actions.summary import summary_text
from release.cli import main
from release.context import Context, Options
from release.manifest import load_manifest
from release.pipeline import StageResult
from tests.conftest import MANIFESTS, CheckpointFactory


def said(words: list[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr("sys.argv", ["moe-release", *map(str, words)])
    with pytest.raises(SystemExit):
        main()
    found = capsys.readouterr()
    return found.out + found.err


def test_one_of_something_is_no_plural(
    make_checkpoint: CheckpointFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_checkpoint(layers=1, shards=1, experts=3)
    (tmp_path / "map.json").write_text(json.dumps({"0": [1]}))
    (tmp_path / "card.md").write_text("# A card\n\nSee [there](#nowhere).\n")
    for name, value in (("a", 1.0), ("b", 2.0)):
        save_file({"x": np.full(3, value, np.float32)}, tmp_path / f"{name}.safetensors")
    monkeypatch.chdir(tmp_path)
    lines = {
        "show": said(["map", "show", "map.json", "--experts", "3"], monkeypatch, capsys),
        "diff": said(["diff", "a.safetensors", "b.safetensors"], monkeypatch, capsys),
        "lint": said(["card", "--lint", "card.md"], monkeypatch, capsys),
    }
    assert "in each of 1 layer" in lines["show"]
    assert "(1 drop in all)" in lines["show"]
    assert "1 tensor on both sides, 12 bytes; 1 difference\n" in lines["diff"]
    assert "card.md: 1 finding\n" in lines["lint"]
    for name, text in lines.items():
        assert not re.search(r"\b1 (layers|drops|tensors|differences|findings|experts|files)\b", text), (name, text)


def test_a_limited_run_says_what_it_did_not_do(tmp_path: Path) -> None:
    context = Context(load_manifest(MANIFESTS / "tiny-gemma4-4e.yaml"), tmp_path)
    context.options = Options(limit=1, until="eval")
    text = summary_text(context, [StageResult("eval", "evaluating", "done", 1.0)])
    assert "not done   what comes after eval: --limit asks at most 1 question, and a card needs all; run without it" in text
    pruned = summary_text(context, [StageResult("prune", "pruning weights", "done", 1.0)])
    assert "not done" not in pruned, "nothing was asked"


def test_a_rehearsal_says_how_to_take_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["rehearse", MANIFESTS / "tiny-gemma4-4e.yaml", "--llama-cpp", tmp_path / "nowhere"]  # it ends in preflight
    hint = (
        "everything is made anew in build/rehearsal/tiny-gemma4-4e: "
        "to take what is finished, give --work build/tiny-gemma4-4e\n"
    )
    assert hint not in said(words, monkeypatch, capsys)
    (tmp_path / "build/tiny-gemma4-4e/records").mkdir(parents=True)
    assert said(words, monkeypatch, capsys).startswith(hint)
    assert hint not in said([*words, "--work", "build/tiny-gemma4-4e"], monkeypatch, capsys)
