"""The calibration set and the exam are read before anything is loaded; a run without an exam needs none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pruner.errors import CheckFailedError, InputError
from release.cli import app
from release.context import Context
from release.manifest import load_manifest
from release.pipeline import stage_names
from release.stages.preflight import STAGE, check_inputs

Change = Callable[[Path], object]


@pytest.fixture
def root(tmp_path: Path, manifests: Path) -> Path:
    """A copy of the manifests."""
    return shutil.copytree(manifests, tmp_path / "m", ignore=shutil.ignore_patterns("headers"))


def replace(name: str, old: str, new: str) -> Change:
    def change(root: Path) -> None:
        path = root / name
        assert old in path.read_text(encoding="utf-8")
        path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")

    return change


def append(name: str, text: str) -> Change:
    return lambda root: (root / name).write_text((root / name).read_text(encoding="utf-8") + text, encoding="utf-8")


MANIFEST, SET, PROTOCOL = "tiny-gemma4-4e.yaml", "tiny/exam/calibration.jsonl", "protocols/tiny-exam.yaml"
NAMED = "dataset: {path: tiny/exam/calibration.jsonl}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            replace(MANIFEST, NAMED, NAMED + "\n    fields: {reasoning: Explanatoin}"),
            r"4e\.yaml:9:14: prune\.analysis\.fields\.reasoning: .* has no column 'Explanatoin'; did you mean 'Explanation'\?",
        ),
        (
            replace(MANIFEST, NAMED, NAMED + "\n    fields: {question: Frage}"),
            r"prune\.analysis\.fields\.question: .*calibration\.jsonl:1 has no column 'Frage'$",
        ),
        (lambda root: (root / SET).write_text("{}\n"), r"4e\.yaml: prune\.analysis\.fields\.question: .*has no column"),
        (append(SET, "{}\n"), r"calibration\.jsonl:\d+: column 'Question' is missing"),
        (append(SET, "[1\n"), r"calibration\.jsonl:\d+: not a JSON object"),
        (lambda root: (root / SET).write_text("\n"), r"calibration\.jsonl: the calibration set holds no question"),
        (lambda root: (root / SET).unlink(), r"calibration\.jsonl does not exist beside the manifest"),
        (
            replace(MANIFEST, "tokens: answer}", "tokens: answer, class_weights: {column: Domain, weights: {physics: 2}}}"),
            r"calibration\.jsonl:1: column 'Domain' is missing or no text",
        ),
        (
            replace(MANIFEST, NAMED, NAMED + '\n    reply_format: "{thought}"'),
            r"tiny-gemma4-4e\.yaml:9:5: prune\.analysis\.reply_format: reply format: the fields must be",
        ),
        (lambda root: (root / "tiny/exam/held_out.jsonl").unlink(), r"protocol tiny-exam: .*data set cannot be read"),
    ],
)
def test_check_reads_the_questions(root: Path, change: Change, message: str) -> None:
    change(root)
    with pytest.raises(InputError, match=message) as error:
        CliRunner().invoke(app, ["check", str(root / MANIFEST)], catch_exceptions=False)
    assert "\n" not in str(error.value)


EXAM = "protocol: protocols/tiny-exam.yaml"
ROW = "tiny/evidence/tiny-gemma4-16e-Q6_K.json, sha256: 66505d05ce3c83956987e50e3992ed972c83c6c259b0393e0e6eadea71e60424"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (EXAM, "protocol: tiny-exam", "tiny-exam does not exist beside the manifest; did you mean 'protocols/tiny-exam.yaml'?"),
        (EXAM, "protocol: protocols/tiny-exams.yml", "did you mean 'protocols/tiny-exam.yaml'?"),
        (EXAM, "protocol: protocols", "eval.protocol: protocols is a folder, not a file"),
        (EXAM, "protocol: other.yaml", "eval.protocol: other.yaml does not exist beside the manifest"),
        (EXAM, "protocol: tiny-gemma4-4e.yaml", "tiny-gemma4-4e.yaml: is a manifest, not a protocol"),
        (ROW, "tiny-gemma4-4e.lock.json", "tiny-gemma4-4e.lock.json: is a lock, not the evidence of a run"),
        (ROW, "tiny/evidence/tiny-gemma4-16e-Q6_K.json, sha256: " + "ab" * 32, "; restore the file, or pin what it is now"),
        ("card: {", "card: {earlier_maps: {v1: {path: tiny-gemma4-4e.lock.json}}, ", "tiny-gemma4-4e.lock.json: "),
    ],
)
def test_check_opens_what_the_manifest_names(root: Path, old: str, new: str, message: str) -> None:
    replace(MANIFEST, old, new)(root)
    with pytest.raises(InputError) as error:
        CliRunner().invoke(app, ["check", str(root / MANIFEST)], catch_exceptions=False)
    assert message in str(error.value)
    assert str(error.value).count("did you mean") == message.count("did you mean")


def test_check_knows_another_exam(root: Path) -> None:
    (root / "tiny/exam/held_out.jsonl").write_text("{}\n")
    with pytest.raises(CheckFailedError, match=r"4e\.yaml:\d+:\d+.*: protocol tiny-exam: .*sha256 is .* the protocol names"):
        CliRunner().invoke(app, ["check", str(root / MANIFEST)], catch_exceptions=False)
    check_inputs(load_manifest(root / MANIFEST), examined=False)


@pytest.fixture
def pinned(root: Path) -> Path:
    """A manifest that pins its map, and says what it was made from."""
    manifest = root / "pinned.yaml"
    text = (root / MANIFEST).read_text()
    start, end, gguf, rest = (text.index(key) for key in ("  analysis:", "weights:", "  imatrix:", "eval:"))
    prune = "  drop_map: {path: map.json}\n  calibration: {dataset: tiny/exam/calibration.jsonl}\n"
    manifest.write_text(text[:start] + prune + text[end:gguf] + "  quants: [Q6_K, Q4_K_M]\n" + text[rest:])
    (root / "map.json").write_text(json.dumps({str(layer): list(range(12)) for layer in range(4)}))
    return manifest


def test_of_a_pinned_map_only_the_questions_are_read(root: Path, pinned: Path) -> None:
    (root / SET).write_text('{"Question": "?"}\n')
    check_inputs(load_manifest(pinned))
    (root / SET).write_text('{"Question": "?"}\n{"Questoin": "?"}\n')
    with pytest.raises(InputError, match=r"calibration\.jsonl:2: column 'Question' is missing"):
        check_inputs(load_manifest(pinned))


def test_a_set_on_the_hub_is_read_where_it_is_on_this_disk(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is downloaded for a check."""
    from huggingface_hub import constants

    revision = "ab" * 20
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    replace(MANIFEST, NAMED, f"dataset: hf://org/set@{revision}/c.jsonl")(root)
    check_inputs(load_manifest(root / MANIFEST))
    snapshot = tmp_path / "cache" / "datasets--org--set" / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (snapshot / "c.jsonl").write_text('{"Question": "?", "Explanation": "!"}\n')
    with pytest.raises(InputError, match=r"c\.jsonl:1 has no column 'Incorrect Answer 1'"):
        check_inputs(load_manifest(root / MANIFEST))


def test_experts_are_ranked_without_the_reference_run_that_the_exam_wants(root: Path) -> None:
    replace(PROTOCOL, "gates:\n", "gates:\n  reference: true\n")(root)
    start = (root / MANIFEST).read_text().index("compare:\n")
    end = (root / MANIFEST).read_text().index("card:")
    text = (root / MANIFEST).read_text()
    (root / MANIFEST).write_text(text[:start] + text[end:])
    loaded = load_manifest(root / MANIFEST)
    with pytest.raises(CheckFailedError, match="protocol tiny-exam wants a reference run beside the score"):
        check_inputs(loaded)
    check_inputs(loaded, examined=False)


@pytest.mark.parametrize(("last", "examined"), [("prune", False), ("convert", False), ("eval", True), ("card", True)])
def test_a_run_is_examined_when_it_reaches_the_exam_or_the_card(pinned: Path, last: str, examined: bool) -> None:
    (pinned.parent / "tiny/exam/held_out.jsonl").unlink()
    names = stage_names()
    context = Context(load_manifest(pinned), pinned.parent / "work", planned=frozenset(names[: names.index(last) + 1]))
    if not examined:
        STAGE.run(context)
        return
    with pytest.raises(InputError, match=r"protocol tiny-exam: .*data set cannot be read"):
        STAGE.run(context)
