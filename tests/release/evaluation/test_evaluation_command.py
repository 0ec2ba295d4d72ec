"""`moe-release eval` on the unpruned tiny model: servers, limits, and what a limited run may not become."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pruner.drop_map import drop_map_from_keep
from pruner.errors import InputError
from pruner.files import canonical_json, sha256_file
from release.context import Context, Options
from release.evaluation.evidence import read_evidence
from release.evaluation.server import LlamaServer
from release.manifest import load_manifest
from release.stages.evaluate import STAGE, evidence_of

from .conftest import Bench, MakeProtocol, Steps

pytestmark = [pytest.mark.llama, pytest.mark.slow]

REPOSITORY = Path(__file__).parents[3]


def moe_release(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from release.cli import main; main()", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=1700,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


@pytest.fixture(scope="session")
def base_manifest(tmp_path_factory: pytest.TempPathFactory, manifests: Path) -> Path:
    """The manifest of the base without an importance matrix, beside a copy of what it names."""
    root = tmp_path_factory.mktemp("base") / "manifests"
    shutil.copytree(manifests, root, ignore=shutil.ignore_patterns("*.lock.json"))
    path = root / "base.yaml"
    path.write_text(
        "schema: moe-release/v1\nname: base\nbase: {path: tiny/model, name: tiny}\n"
        "gguf: {threads: 1, quants: [Q6_K]}\neval: {protocol: protocols/tiny-exam.yaml, quants: [Q6_K]}\n"
    )
    return path


@pytest.fixture(scope="session")
def work(base_manifest: Path) -> Path:
    """A work folder in which the quant stands."""
    folder = base_manifest.parent.parent / "work"
    made = moe_release("quantize", base_manifest, "--work", folder)
    assert made.returncode == 0, made.stderr
    return folder


def test_a_limited_run_with_two_servers_is_partial_and_no_evidence(base_manifest: Path, work: Path):
    found = moe_release("eval", base_manifest, "--work", work, "--limit", "5", "--servers", "2", "--json")
    assert found.returncode == 0, found.stderr
    stages = {each["stage"]: each for each in json.loads(found.stdout)["stages"]}
    assert "of 5 (" in stages["eval"]["detail"]
    assert stages["eval"]["detail"].endswith("— partial")
    folder = work / "eval" / "Q6_K"
    assert json.loads((folder / "evidence.partial.json").read_text())["partial"] is True
    assert not (folder / "evidence.json").exists()
    assert len(json.loads((folder / "run.json").read_text())["servers"]) == 2
    assert json.loads(found.stdout)["scores"] == {}
    assert {"card", "lock", "publish"}.isdisjoint(stages)


FOLDS = 40
"""So many that one of them has few of the exam's questions."""


@pytest.fixture(scope="session")
def fold_manifest(base_manifest: Path) -> Path:
    """A variant whose pinned map says that it was made without fold 3, and its calibration set that of a tenth of the exam."""
    root = base_manifest.parent
    exam = (root / "tiny" / "exam" / "held_out.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (root / "calibration.jsonl").write_text("".join(exam[:FOLDS]), encoding="utf-8")
    layers = [str(layer) for layer in range(4)]
    drop_map = drop_map_from_keep([range(8)] * 4, layers, 16, {"fold": {"index": 3, "count": FOLDS}})
    (root / "fold.json").write_bytes(canonical_json(drop_map.envelope(16)))
    path = root / "fold.yaml"
    path.write_text(
        "schema: moe-release/v1\nname: fold\nbase: {path: tiny/model, name: tiny}\nprune:\n  experts: 8\n"
        "  drop_map: {path: fold.json}\n  calibration: {dataset: {path: calibration.jsonl}}\n"
        "gguf: {threads: 1, quants: [Q6_K]}\neval: {protocol: protocols/tiny-exam.yaml, quants: [Q6_K]}\n"
    )
    return path


def test_a_fold_is_asked_its_own_questions_and_is_no_evidence(fold_manifest: Path, tmp_path: Path):
    found = moe_release("eval", fold_manifest, "--work", tmp_path, "--fold", f"3/{FOLDS}", "--json")
    assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout)
    stages = {each["stage"]: each for each in told["stages"]}
    path = tmp_path / "eval" / "Q6_K" / f"evidence.fold-3-of-{FOLDS}.json"
    assert stages["eval"]["detail"].endswith(f"— fold 3 of {FOLDS}, for `moe-release cross-fit`: {path}")
    assert told["scores"] == {}
    assert not path.with_name("evidence.json").exists()
    part = read_evidence(path)
    assert part.calibration
    assert 0 < part.total < 240 / 4
    assert 0 < len(part.calibration.overlap) < FOLDS
    again = moe_release("eval", fold_manifest, "--work", tmp_path, "--fold", f"3/{FOLDS}")
    assert "not done   the other folds" in again.stdout
    assert "score  " not in again.stdout
    with pytest.raises(InputError, match=r"evidence\.json: evidence does not exist"):
        evidence_of(Context(load_manifest(fold_manifest), tmp_path))  # what a card stands on


@pytest.mark.parametrize(
    ("manifest", "words", "message"),
    [
        ("fold.yaml", ("--fold", "2/40"), "--fold 2/40: the pinned map was made without fold 3/40; give that"),
        ("fold.yaml", ("--fold", "3/41"), "--fold 3/41: the pinned map was made without fold 3/40"),
        ("fold.yaml", ("--fold", "40/40"), "--fold 40/40: write i/n with i from 0 to n-1"),
        ("fold.yaml", ("--fold", "0/1"), "one fold is the whole exam; leave --fold out"),
        ("fold.yaml", ("--fold", "3/40", "--limit", "2"), "--fold asks all questions of its fold, --limit the first few"),
        ("base.yaml", ("--fold", "0/2"), "base.yaml: --fold is for a map of `moe-release rank --folds`: pin it"),
    ],
)
def test_a_fold_that_cannot_be_asked_is_refused_at_once(
    fold_manifest: Path, tmp_path: Path, manifest: str, words: tuple[str, ...], message: str
):
    found = moe_release("eval", fold_manifest.with_name(manifest), "--work", tmp_path, *words)
    assert found.returncode == 2
    assert message in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "gguf").exists()


def test_a_server_elsewhere_is_used(base_manifest: Path, work: Path, bench: Bench, make_protocol: MakeProtocol, tmp_path: Path):
    model = next((work / "gguf").glob("*.gguf"))
    with LlamaServer(
        binary=bench.server_binary, model=model, alias="theirs", protocol=make_protocol(), log=tmp_path / "log"
    ) as server:
        found = moe_release("eval", base_manifest, "--work", work, "--limit", "7", "--server", server.url)
    assert found.returncode == 0, found.stderr
    partial = json.loads((work / "eval" / "Q6_K" / "evidence.partial.json").read_text())
    assert partial["total"] == 7
    assert "model_sha256" in partial["unverified"]


def test_the_run_of_another_protocol_is_kept_aside_and_taken_up_again(base_manifest: Path, work: Path, tmp_path: Path):
    shutil.copytree(base_manifest.parent, tmp_path / "manifests")
    shutil.copytree(work, tmp_path / "work", ignore=shutil.ignore_patterns("eval"))
    protocol = tmp_path / "manifests" / "protocols" / "tiny-exam.yaml"
    first = protocol.read_text()
    second = first.replace("max_tokens: 36", "max_tokens: 40")
    notes: list[str] = []
    progress = Steps(lambda _done: None)
    progress.note = notes.append  # type: ignore[method-assign]

    def run(text: str) -> str:
        protocol.write_text(text)
        loaded = load_manifest(tmp_path / "manifests" / base_manifest.name)
        STAGE.run(Context(loaded, tmp_path / "work", Options(limit=2), progress))
        return sha256_file(tmp_path / "work" / "eval" / "Q6_K" / "ledger.jsonl")

    one, other = run(first), run(second)
    assert [run(first), run(second), run(first)] == [one, other, one], "nothing is asked again"
    (aside,) = (tmp_path / "work" / "eval").glob("Q6_K.*")
    assert sha256_file(aside / "ledger.jsonl") == other
    assert [note.partition(" which was kept as ")[0].partition(" is kept as ")[0] for note in notes] == [
        "Q6_K: the run of another model, protocol or llama.cpp",
        *["Q6_K: the run of another model, protocol or llama.cpp", "Q6_K: goes on with its earlier run,"] * 3,
    ]


def test_a_run_that_nobody_can_name_is_never_deleted(base_manifest: Path, work: Path, tmp_path: Path):
    shutil.copytree(work, tmp_path / "work", ignore=shutil.ignore_patterns("eval"))
    eval_folder = tmp_path / "work" / "eval"
    for number in range(2):
        (eval_folder / "Q6_K").mkdir(parents=True, exist_ok=True)
        (eval_folder / "Q6_K" / "run.id").unlink(missing_ok=True)
        (eval_folder / "Q6_K" / "ledger.jsonl").write_text(f"days of work {number}")
        STAGE.run(Context(load_manifest(base_manifest), tmp_path / "work", Options(limit=1)))
    kept = {path.name: (path / "ledger.jsonl").read_text() for path in eval_folder.glob("Q6_K.*")}
    assert kept == {"Q6_K.unknown": "days of work 0", "Q6_K.unknown-2": "days of work 1"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("eval", "--servers", "2", "--server", "http://x"), "give one of the two"),
        (("eval", "--server", "ftp://x"), "--server 'ftp://x'"),
        (("cut", "--limit", "3", "--until", "card"), "--limit is for smoke tests and ends after eval"),
    ],
)
def test_bad_words_get_one_line(base_manifest: Path, work: Path, words: tuple[str, ...], message: str):
    command, *options = words
    found = moe_release(command, base_manifest, "--work", work, *options)
    assert found.returncode == 2
    assert message in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1


def test_a_protocol_that_wants_a_reference_run_is_refused_at_once_without_one(base_manifest: Path):
    protocol = base_manifest.parent / "protocols" / "strict.yaml"
    text = (base_manifest.parent / "protocols" / "tiny-exam.yaml").read_text()
    protocol.write_text(text.replace("gates:\n", "gates:\n  reference: true\n"))
    manifest = base_manifest.parent / "strict.yaml"
    variant = (base_manifest.parent / "tiny-gemma4-4e.yaml").read_text()
    manifest.write_text(variant.replace("tiny-exam.yaml", "strict.yaml"))
    found = moe_release("check", manifest)
    assert found.returncode == 1
    assert "not strict" in found.stderr or "not tiny-exam" in found.stderr
    assert "evaluate it under the same protocol" in found.stderr
