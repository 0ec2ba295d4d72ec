"""The cards of small real releases: rows that others reported, names with digits, licenses, and a lock that says otherwise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pruner.errors import CheckFailedError
from pruner.files import sha256_file
from release.card.lint.run import lint_file
from release.cli import app
from release.lock import LockedFile, read_lock, write_lock
from tests.conftest import MANIFESTS
from tests.small_release import NAME, write_small_release

URL = "https://example.org/cards?row=77"
ROWS = f"""compare:
  - label: other-v2
    reported: {{exam: AIME 2024, quant: Q6_K, correct: 162, total: 198, percent: 81.82, url: "{URL}", date: 2026-05-01}}
  - label: other-v2
    reported: {{exam: AIME 2024, quant: Q4_K_M, correct: 12, total: 30, percent: 40, url: "{URL}", date: 2026-05-01}}
"""


def small(folder: Path, more: str = "", **changes: str) -> Path:
    manifest = write_small_release(folder)
    text = manifest.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    manifest.write_text(text + more)
    return manifest


def card(manifest: Path, *, exit_code: int = 0) -> Path:
    work = manifest.parent / "work"
    result = CliRunner().invoke(app, ["card", str(manifest), "--work", str(work)])
    assert result.exit_code == exit_code, result.output
    return work / "card"


def test_reported_rows_stand_on_a_card_that_evaluates_nothing(tmp_path: Path) -> None:
    manifest = small(tmp_path, ROWS)
    folder = card(manifest)
    row = "| other-v2 † | Q6_K | 162 of 198 |  |  | 81.82 % |  | not reproduced here |"
    text = (folder / "README.md").read_text()
    assert row in text
    assert row in (folder / "results.md").read_text()
    assert "![Chart of scores" in text
    assert text.count("\n† other-v2: AIME 2024, reported at ") == 1, "one footnote, which names the model once"
    result = CliRunner().invoke(app, ["report", str(manifest), "--work", str(tmp_path / "work"), "--json"])
    assert result.exit_code == 0, result.output
    page = Path(json.loads(result.stdout)["report"]).read_text()
    assert '<table id="results-table">' in page
    assert "reported by others, not reproduced here: other-v2" in page


def test_evidence_of_others_stands_on_a_card_that_evaluates_nothing(tmp_path: Path) -> None:
    shutil.copytree(MANIFESTS / "tiny" / "evidence", tmp_path / "evidence")
    rows = "compare:\n  - {label: tiny, evidence: {path: evidence/tiny-gemma4-16e-Q6_K.json}}\n"
    folder = card(small(tmp_path, rows))
    assert "| tiny | Q6_K | 205 → 211 of 240 |" in (folder / "README.md").read_text()
    assert lint_file(folder / "README.md") == ()


def test_digits_in_names_are_no_numbers_without_a_source(tmp_path: Path) -> None:
    names = {"name: tiny-gemma4-16e": "name: Gemma 7 26B", "apache-2.0": "Apache 2.7"}
    folder = card(small(tmp_path, ROWS, **names))
    assert "Gemma 7 26B" in (folder / "README.md").read_text()
    assert "Apache 2.7, as the publisher states it." in (folder / "README.md").read_text()
    assert [lint_file(folder / name) for name in ("README.md", "results.md")] == [(), ()]


BASE_CARD = """---
license: other
license_name: tiny-terms
license_link: TERMS.md
pipeline_tag: image-text-to-text
---
# The base
"""


def test_what_the_base_says_of_its_license_and_task_is_kept(tmp_path: Path) -> None:
    manifest = small(tmp_path, **{"card: {license: apache-2.0}\n": ""})
    (tmp_path / "tiny" / "model" / "README.md").write_text(BASE_CARD)
    text = (card(manifest) / "README.md").read_text()
    assert "license: other\n" in text
    assert "license_name: tiny-terms\n" in text
    assert "pipeline_tag: image-text-to-text\n" in text
    assert "license_link" not in text, "a file of a base by path has no address"
    assert "other (tiny-terms), like the base's." in text


def test_a_license_that_contradicts_the_base_stops_the_card(tmp_path: Path) -> None:
    manifest = small(tmp_path)
    (tmp_path / "tiny" / "model" / "README.md").write_text(BASE_CARD.replace("other", "mit").replace("license_name", "x"))
    result = CliRunner().invoke(app, ["card", str(manifest), "--work", str(tmp_path / "work")])
    assert result.exit_code != 0
    assert "card.license is 'apache-2.0', the base's card says 'mit'; remove it from the manifest" in str(result.exception)
    assert not (tmp_path / "work" / "card").exists()
    assert NAME in manifest.name


@pytest.mark.parametrize("part", ["protocol", "card/README.md", "an input"])
def test_a_card_is_rendered_of_what_is_locked_alone(tmp_path: Path, part: str) -> None:
    manifest = small(tmp_path, ROWS)
    work = tmp_path / "work"
    words = [str(manifest), "--work", str(work)]
    assert CliRunner().invoke(app, ["cut", *words, "--skip", "publish,readback"]).exit_code == 0
    before = (work / "card" / "README.md").read_bytes()
    path = tmp_path / f"{NAME}.lock.json"
    lock = read_lock(path)
    assert lock is not None
    if part == "protocol":
        changed = lock.model_copy(update={"inputs": lock.inputs.model_copy(update={"protocol": "0" * 64})})
    elif part == "an input":
        other = {"evidence.json": LockedFile(sha256="0" * 64, size=1)}
        changed = lock.model_copy(update={"inputs": lock.inputs.model_copy(update={"files": {**lock.inputs.files, **other}})})
    else:  # prose is written in rounds, and its card is no input of anything
        changed = lock.model_copy(update={"outputs": {**lock.outputs, part: LockedFile(sha256="0" * 64, size=1)}})
    write_lock(path, changed)
    result = CliRunner().invoke(app, ["card", *words])
    if part == "card/README.md":
        assert result.exit_code == 0
        return
    assert isinstance(result.exception, CheckFailedError)
    what = "the protocol" if part == "protocol" else "evidence.json"
    assert f"{path.name} says otherwise of {what}, and a card is rendered of what is locked alone" in str(result.exception)
    assert (work / "card" / "README.md").read_bytes() == before
    write_lock(path, lock)
    assert CliRunner().invoke(app, ["card", *words]).exit_code == 0


def test_prose_is_written_in_rounds_and_locked_in_the_end(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("First words.\n")
    manifest = small(tmp_path, **{"card: {license: apache-2.0}": "card: {license: apache-2.0, prose: notes.md}"})
    words = [str(manifest), "--work", str(tmp_path / "work")]
    everything = ["cut", *words, "--skip", "publish,readback"]
    assert CliRunner().invoke(app, everything).exit_code == 0
    (tmp_path / "notes.md").write_text("Other words.\n")
    assert CliRunner().invoke(app, ["card", *words]).exit_code == 0
    assert "Other words." in (tmp_path / "work" / "card" / "README.md").read_text()
    refused = CliRunner().invoke(app, everything)
    assert isinstance(refused.exception, CheckFailedError)
    assert "notes.md" in str(refused.exception)


def test_earlier_builds_and_maps_stand_on_the_card_with_their_counts(tmp_path: Path) -> None:
    manifest = small(
        tmp_path, **{"card: {license: apache-2.0}": "card: {license: apache-2.0, earlier_maps: {x-v0: {path: old.json}}}"}
    )
    (tmp_path / "old.json").write_text(json.dumps({str(layer): list(range(12)) for layer in range(4)}))
    card(manifest)
    build = tmp_path / "work" / "weights"
    sums = "".join(f"{sha256_file(path)}  {path.name}\n" for path in sorted(build.glob("*.safetensors")))
    (tmp_path / "SHA256SUMS").write_text(sums)
    manifest.write_text(manifest.read_text() + "prior:\n  - {path: SHA256SUMS}\n")
    folder = card(manifest)
    text = (folder / "README.md").read_text()
    assert "| Earlier build | Shards equal to this build | Of |\n|---|---|---|\n| SHA256SUMS | 3 | 3 |\n" in text
    assert "| x-v0 | 48 | 32 | 66.67 % | 16 |" in text
    claims = json.loads((folder / "claims.json").read_text())
    assert claims["prior.0.equal"]["source"] == "SHA-256 of this build and of SHA256SUMS"
    assert claims["earlier.0.both"]["value"] == 32
    assert lint_file(folder / "README.md") == ()
