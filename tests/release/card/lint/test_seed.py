"""The model card that the project grew from, as its publisher typed it: lint finds what facts/prior-art.md lists of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from release.cli import app
from tests.conftest import ROOT

SEED = ROOT.parent / "shared" / "seed"

LISTED = {
    "the sum of raw and patched": (106, "sum", "128 + 5 is 133, the card says 159"),
    "two raw scores": (106, "given twice", "128 correct from the raw run here, 154/198 in line 96"),
    "too few wrong answers": (107, "breakdown", "159 of 198 are correct, so 39 are wrong; the card says 34"),
    "bytes and parameters fall by one share": (10, "share", "-14% of parameters (line 6) and -16% of bytes"),
    "the size of the files": (125, "GB or GiB", "41.7 GB: 22.4B parameters in bf16 are 44.8 GB"),
    "one size of both quants": (9, "quant size", "18 GB for both 26B and 22.4B parameters"),
    "rows of 704": (9, "quant size", "rows of 704 are no multiple of 256 and fall back to Q8_0"),
    "three questions in points": (27, "difference", "159/198 against 156/198 is 1.52 pp, the card says +1.51 pp"),
    "a header of % over points": (86, "delta unit", "the header says %, the column holds percentage points (pp)"),
    "the exam as calibration set": (3, "in-sample", "measured on GPQA Diamond (196 of its questions)"),
    "raw beside patched": (87, "raw beside patched", "6 scores after a patch stand here, and the raw score of 1 of them"),
    "no difference of 198 questions": (13, "untested difference", "198 questions, which can show 6.3 pp"),
    "luck": (100, "luck", "5 or more of 10 with probability 0.078"),
}


def test_lint_finds_the_slips_of_the_seed_with_line_and_reason() -> None:
    cards = sorted(SEED.glob("*.txt"))
    if not cards:
        pytest.skip("the seed stands beside a checkout of the project alone")
    result = CliRunner().invoke(app, ["card", "--lint", str(cards[0]), "--json"])
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    for line, kind, words in LISTED.values():
        assert any((each["line"], each["kind"]) == (line, kind) and words in each["message"] for each in found), (line, kind)
    unlisted = [each for each in found if (each["line"], each["kind"]) not in {place[:2] for place in LISTED.values()}]
    assert [(each["line"], each["kind"]) for each in unlisted] == [
        (10, "GB or GiB"),  # 42 GB are GiB too
        (27, "untested difference"),
    ]


def test_the_names_of_missing_scripts_are_found_where_the_files_are_known(tmp_path: Path) -> None:
    cards = sorted(SEED.glob("*.txt"))
    if not cards:
        pytest.skip("the seed stands beside a checkout of the project alone")
    names = ["README.md", "config.json", "expert_drop_metadata.json", "tokenizer.json", "tokenizer_config.json"]
    shards = [f"model-{number:05d}-of-00009.safetensors" for number in range(1, 10)]
    (tmp_path / "files.txt").write_text("\n".join([*names, "chat_template.jinja", *shards, "scripts/expert_drop.py"]))
    words = ["card", "--lint", str(cards[0]), "--files", str(tmp_path / "files.txt"), "--json"]
    missing = [each for each in json.loads(CliRunner().invoke(app, words).stdout) if each["kind"] == "missing file"]
    named = {each["message"].rpartition(" ")[2] for each in missing}
    assert {"scripts/teacher_force_analysis.py", "scripts/generate_drop_map.py", "scripts/eval_gpqa_v3.sh"} <= named
    assert "scripts/expert_drop.py" not in named
