"""The results table of a family: one table per protocol, nothing rendered without evidence that the lock knows."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pruner.errors import CheckFailedError
from pruner.files import sha256_file
from release.actions.results import results_tables, tables_csv, tables_json, tables_markdown
from release.attestation.provenance import PROVENANCE, provenance
from release.cli import app
from release.evaluation.evidence import read_evidence, write_evidence
from release.lock import Lock, LockedBase, LockedFile, LockedInputs, digest_of_quant, read_committed_lock, write_lock
from release.manifest import load_manifest
from tests.conftest import MANIFESTS
from tests.digests import spoil_lock
from tests.release.evaluation.runs import cherry_picked, write_lm_eval_run

FAMILY = [MANIFESTS / f"gemma-4-A4B-{name}.yaml" for name in ("109e-v3", "109e-v2", "120e-v4")]
BASE = "tiny-gemma4-16e"


@pytest.fixture
def family(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of manifests and one of work folders, with the committed evidence as the base's own run under its lock."""
    manifests, work = tmp_path / "manifests", tmp_path / "build"
    shutil.copytree(MANIFESTS, manifests)
    place = work / BASE / "eval" / "Q6_K" / "evidence.json"
    place.parent.mkdir(parents=True)
    shutil.copy(MANIFESTS / "tiny" / "evidence" / f"{BASE}-Q6_K.json", place)
    lock_evidence(manifests, place)
    return manifests, work


def lock_evidence(manifests: Path, place: Path, quants: dict[str, str] | None = None) -> None:
    """Lock evidence and quants, by default the one that it is of."""
    quants = quants or {f"{BASE}-Q6_K.gguf": read_evidence(place).model_sha256}
    outputs = {
        "eval/Q6_K/evidence.json": LockedFile(sha256=sha256_file(place), size=place.stat().st_size),
        **{f"gguf/{name}": LockedFile(sha256=sha256, size=1) for name, sha256 in quants.items()},
    }
    inputs = LockedInputs(base=LockedBase(name=BASE, files={}))
    write_lock(manifests / f"{BASE}.lock.json", Lock(name=BASE, inputs=inputs, outputs=outputs))  # type: ignore[call-arg]


def test_what_several_manifests_name_stands_once() -> None:
    tables = results_tables(FAMILY, Path("nowhere"))
    assert [[entry.label for entry in table.entries] for table in tables] == [
        [
            "gemma-4-26B-A4B-it",
            "gemma-4-A4B-109e-v3",
            "gemma-4-A4B-109e-v2",
            "gemma-4-A4B-120e-v4",
            "gemma-4-A4B-120e-v3",
            "gemma-4-A4B-109e",
        ]
    ]
    text = tables_markdown(tables)
    assert "| gemma-4-A4B-109e-v3 † | Q6_K | 154 → 159 of 198 | 77.78 % |  | 80.30 % |  | not reproduced here |" in text
    assert text.count("\n† ") == 1


def test_runs_and_reported_rows_of_others_are_clearly_separated(family: tuple[Path, Path]) -> None:
    manifests, work = family
    tables = results_tables([manifests / f"{BASE}.yaml", *FAMILY], work)
    text = tables_markdown(tables)
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Protocol `tiny-exam` (fd7dee0f3361)",
        "## Reported by others",
    ]
    found = json.loads(tables_json(tables))
    assert [each["protocol"] for each in found] == ["tiny-exam", None]
    assert found[0]["rows"][0]["correct"] == 211


def test_the_command_prints_all_three_forms(family: tuple[Path, Path]) -> None:
    manifests, work = family
    words = ["table", str(manifests / f"{BASE}.yaml"), str(FAMILY[0]), "--work", str(work)]
    forms = {form: CliRunner().invoke(app, [*words, "--format", form]) for form in ("markdown", "csv", "json")}
    assert {each.exit_code for each in forms.values()} == {0}
    rows = list(csv.DictReader(io.StringIO(forms["csv"].stdout)))
    assert [(row["model"], row["total"], row["raw_correct"], row["correct"]) for row in rows][:3] == [
        (BASE, "240", "205", "211"),
        ("gemma-4-26B-A4B-it", "198", "", "162"),
        ("gemma-4-A4B-109e-v3", "198", "154", "159"),
    ]
    assert len(json.loads(forms["json"].stdout)) == 2
    own = json.loads(forms["json"].stdout)[0]["rows"][0]
    assert 0.7 < own["low"] < own["score"] < own["high"] < 1
    assert (rows[0]["low"], rows[1]["low"]) == (str(own["low"]), "")
    assert rows[2]["points"] == ""
    assert "interval" not in rows[0]
    assert forms["markdown"].stdout.startswith("## Protocol")


@pytest.mark.parametrize("label", ['=HYPERLINK("http://x", "y")', "+1", "-1+2", "@SUM(A1)", "plain, and = inside"])
def test_no_cell_of_a_stranger_is_a_formula(family: tuple[Path, Path], label: str) -> None:
    manifest = family[0] / FAMILY[0].name
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace("label: gemma-4-26B-A4B-it", f"label: {json.dumps(label)}"), encoding="utf-8")
    tables = results_tables([manifest], family[1])
    models = [row["model"] for row in csv.DictReader(io.StringIO(tables_csv(tables)))]
    assert models[0] == (label if label.startswith("plain") else f"'{label}")
    assert json.loads(tables_json(tables))[0]["rows"][0]["model"] == label


def with_lm_eval_run(manifest: Path, answers: str) -> None:
    """Let a manifest compare with what lm-eval wrote by itself."""
    folder = write_lm_eval_run(manifest.parent / "theirs", answers, filters=("strict-match", "flexible-extract")) / "model"
    (samples,), (results,) = folder.glob("samples_*"), folder.glob("results_*")
    pins = {
        key: {"path": path.relative_to(manifest.parent).as_posix(), "sha256": sha256_file(path)}
        for key, path in (("samples", samples), ("results", results))
    }
    manifest.write_text(manifest.read_text() + f"compare: {json.dumps([{'label': 'theirs', 'lm_eval': pins}])}\n")


def test_an_output_of_lm_eval_is_a_row_under_the_gates_of_the_protocol(family: tuple[Path, Path]) -> None:
    manifests, work = family
    manifest = manifests / f"{BASE}.yaml"
    with_lm_eval_run(manifest, "+" * 45 + "-" * 15)
    (table,) = results_tables([manifest], work)
    rows = json.loads(tables_json([table]))[0]["rows"]
    assert [(row["model"], row["correct"], row["total"], row["raw_correct"]) for row in rows] == [
        ("theirs", 45, 60, None),
        (BASE, 211, 240, 205),
    ]
    assert rows[0]["low"] < rows[0]["score"] == 0.75 < rows[0]["high"]
    assert "| theirs |  | 45 of 60 |" in tables_markdown([table])


def test_an_output_of_lm_eval_with_too_many_empty_replies_is_no_row(family: tuple[Path, Path]) -> None:
    manifests, work = family
    with_lm_eval_run(manifests / f"{BASE}.yaml", "+" * 23 + "0" * 7)
    with pytest.raises(CheckFailedError, match=r"no score under the gates of protocol tiny-exam: .*empty"):
        results_tables([manifests / f"{BASE}.yaml"], work)


def test_an_output_of_lm_eval_needs_a_protocol(family: tuple[Path, Path]) -> None:
    manifests, work = family
    manifest = manifests / f"{BASE}.yaml"
    text = manifest.read_text()
    manifest.write_text(text[: text.index("eval:")])
    with_lm_eval_run(manifest, "+")
    with pytest.raises(CheckFailedError, match="theirs is an output of lm-eval, whose gates stand in a protocol; give eval"):
        results_tables([manifest], work)


def test_a_manifest_that_changed_since_its_build_is_told(family: tuple[Path, Path]) -> None:
    manifests, work = family
    manifest = manifests / f"{BASE}.yaml"
    loaded, lock = load_manifest(manifest), read_committed_lock(manifests / f"{BASE}.lock.json")
    assert lock is not None
    (work / BASE / PROVENANCE).write_bytes(provenance(loaded.content, sha256_file(manifest), lock))
    words = ["table", str(manifest), "--work", str(work)]
    assert CliRunner().invoke(app, words).stderr == ""
    manifest.write_text(manifest.read_text() + "# a word\n")
    changed = CliRunner().invoke(app, words)
    assert changed.exit_code == 0
    assert changed.stderr.startswith(f"warning: {manifest} has changed since the build in {work / BASE}")
    (work / BASE / "records").mkdir()
    (work / BASE / "records" / "eval.json").write_text("{}")
    assert CliRunner().invoke(app, words).stderr == "", "evaluated since, without a lock of it"
    (work / BASE / PROVENANCE).write_text("[" * 100_000)
    assert CliRunner().invoke(app, words).stderr == ""


def test_missing_evidence_is_named_for_every_manifest(family: tuple[Path, Path]) -> None:
    manifests, work = family
    shutil.rmtree(work)
    (manifests / "tiny-gemma4-4e.lock.json").unlink()
    with pytest.raises(CheckFailedError, match=r"no table: tiny-gemma4-16e: .*evidence.json is missing.*; tiny-gemma4-4e: "):
        results_tables([manifests / f"{BASE}.yaml", manifests / "tiny-gemma4-4e.yaml"], work)


def test_evidence_that_the_lock_does_not_know_is_not_rendered(family: tuple[Path, Path]) -> None:
    manifests, work = family
    place = work / BASE / "eval" / "Q6_K" / "evidence.json"
    write_evidence(place, read_evidence(place).model_copy(update={"quant": "Q8_0"}))
    with pytest.raises(CheckFailedError, match=r"has SHA-256 .*, the lock says "):
        results_tables([manifests / f"{BASE}.yaml"], work)


def test_evidence_of_another_model_or_protocol_is_not_rendered(family: tuple[Path, Path]) -> None:
    manifests, work = family
    place = work / BASE / "eval" / "Q6_K" / "evidence.json"
    lock = manifests / f"{BASE}.lock.json"
    spoil_lock(
        lock,
        next(
            name
            for name, each in json.loads(lock.read_bytes())["outputs"].items()
            if each["sha256"] == read_evidence(place).model_sha256
        ),
    )
    with pytest.raises(CheckFailedError, match="is of another Q6_K than the lock's"):
        results_tables([manifests / f"{BASE}.yaml"], work)
    write_evidence(place, read_evidence(place).model_copy(update={"protocol_digest": "0" * 64}))
    lock_evidence(manifests, place)
    with pytest.raises(CheckFailedError, match="is of another protocol than the manifest's"):
        results_tables([manifests / f"{BASE}.yaml"], work)


def test_evidence_of_another_quant_of_the_lock_is_not_rendered(family: tuple[Path, Path]) -> None:
    manifests, work = family
    place = work / BASE / "eval" / "Q6_K" / "evidence.json"
    model = read_evidence(place).model_sha256
    lock_evidence(manifests, place, {f"{BASE}-Q4_K_M.gguf": model, f"{BASE}-Q6_K.gguf": "0" * 64})
    with pytest.raises(CheckFailedError, match="is of another Q6_K than the lock's"):
        results_tables([manifests / f"{BASE}.yaml"], work)


def test_evidence_of_a_quant_in_shards_is_rendered(family: tuple[Path, Path]) -> None:
    manifests, work = family
    place = work / BASE / "eval" / "Q6_K" / "evidence.json"
    shards = {f"{BASE}-Q6_K-{number:05d}-of-00002.gguf": str(number) * 64 for number in (1, 2)}
    write_evidence(place, read_evidence(place).model_copy(update={"model_sha256": digest_of_quant([*shards.values()])}))
    lock_evidence(manifests, place, shards)
    (table,) = results_tables([manifests / f"{BASE}.yaml"], work)
    assert [row.quant for row in table.rows] == ["Q6_K"]


def test_a_part_of_an_exam_is_not_rendered(family: tuple[Path, Path]) -> None:
    manifests, work = family
    place = work / BASE / "eval" / "Q6_K" / "evidence.json"
    whole = read_evidence(place)
    for part, message in ((cherry_picked(whole), "questions is 211"), (whole.model_copy(update={"partial": True}), "partial")):
        write_evidence(place, part)
        lock_evidence(manifests, place)
        with pytest.raises(CheckFailedError, match=message):
            results_tables([manifests / f"{BASE}.yaml"], work)


def test_a_part_of_anothers_exam_is_not_rendered(family: tuple[Path, Path]) -> None:
    manifests, work = family
    pinned = manifests / "tiny" / "evidence" / f"{BASE}-Q6_K.json"
    before = sha256_file(pinned)
    write_evidence(pinned, cherry_picked(read_evidence(pinned)))
    manifest = manifests / "tiny-gemma4-4e.yaml"
    manifest.write_text(manifest.read_text().replace(before, sha256_file(pinned)))
    with pytest.raises(CheckFailedError, match=f"the run of {BASE} is not the exam of tiny-exam: questions is 211"):
        results_tables([manifest], work)


def test_a_score_that_two_manifests_report_differently_stops_the_table(tmp_path: Path) -> None:
    shutil.copytree(MANIFESTS, tmp_path / "m")
    path = tmp_path / "m" / FAMILY[1].name
    path.write_text(path.read_text().replace("correct: 162, total: 198, percent: 81.82", "correct: 160, total: 198"))
    with pytest.raises(CheckFailedError, match="gemma-4-26B-A4B-it stands in two manifests with different results"):
        results_tables([FAMILY[0], path], tmp_path)


def test_manifests_without_a_score_have_no_table() -> None:
    with pytest.raises(CheckFailedError, match="evaluate nothing and compare with nothing"):
        results_tables([MANIFESTS / "qwen3-30B-A3B-96e.yaml"], Path("nowhere"))


REPORTED = """  - label: {label}
    reported: {{exam: {exam}, correct: {correct}, total: 198, url: "https://example.org/{page}"}}
"""


def reporting(folder: Path, *rows: tuple[str, int, str]) -> Path:
    """A manifest that compares with one model alone, reported for these exams with these counts on these pages."""
    shutil.copytree(MANIFESTS / "headers", folder / "headers", dirs_exist_ok=True)
    path = folder / "m.yaml"
    head, _, _ = FAMILY[0].read_text().partition("compare:")
    shown = [REPORTED.format(label="other", exam=exam, correct=correct, page=page) for exam, correct, page in rows]
    path.write_text(head + "compare:\n" + "".join(shown))
    return path


def test_a_model_may_be_reported_for_two_exams_and_by_two_sources(tmp_path: Path) -> None:
    rows = [("A", 150, "card"), ("B", 100, "card"), ("A", 151, "review")]
    (table,) = results_tables([reporting(tmp_path, *rows)], tmp_path)
    assert [entry.reported.correct for entry in table.entries if entry.reported] == [150, 100, 151]
    with pytest.raises(CheckFailedError, match="other stands in two manifests with different results"):
        results_tables([reporting(tmp_path, ("A", 150, "card"), ("A", 151, "card"))], tmp_path)


def test_evidence_stands_under_its_protocol_where_the_manifest_names_none(family: tuple[Path, Path]) -> None:
    manifests, work = family
    path = manifests / FAMILY[0].name
    evidence = f"  - {{label: ours, evidence: {{path: tiny/evidence/{BASE}-Q6_K.json}}}}\n"
    path.write_text(path.read_text().replace("card: {", f"{evidence}card: {{"))
    tables = results_tables([path], work)
    assert [(table.protocol, [entry.label for entry in table.entries][-1]) for table in tables] == [
        (None, "gemma-4-A4B-109e"),
        ("tiny-exam", "ours"),
    ]
    both = results_tables([path, manifests / f"{BASE}.yaml"], work)
    assert [entry.label for entry in both[1].entries] == ["ours", BASE]


def work_lock(manifests: Path, work: Path, **changes: object) -> Lock:
    """The committed lock as the work folder's own, with other words about its evidence."""
    lock = read_committed_lock(manifests / f"{BASE}.lock.json")
    assert lock is not None
    name = "eval/Q6_K/evidence.json"
    made = lock.model_copy(update={"outputs": {**lock.outputs, name: lock.outputs[name].model_copy(update=changes)}})
    write_lock(work / BASE / "lock.json", made)
    return lock


def test_a_rehearsal_has_its_lock_in_the_work_folder(family: tuple[Path, Path]) -> None:
    manifests, work = family
    work_lock(manifests, work)
    committed = manifests / f"{BASE}.lock.json"
    committed.unlink()
    assert len(results_tables([manifests / f"{BASE}.yaml"], work)[0].entries) == 1
    (work / BASE / "lock.json").unlink()
    with pytest.raises(CheckFailedError, match=r"lock.json is missing, and .* holds no lock.json; cut or rehearse"):
        results_tables([manifests / f"{BASE}.yaml"], work)


def test_evidence_that_other_tools_made_stands_under_the_lock_of_its_build(family: tuple[Path, Path]) -> None:
    manifests, work = family
    lock = work_lock(manifests, work, made_with={"processor": "this one"})
    name = "eval/Q6_K/evidence.json"
    for made_with, accepted in (({"processor": "another"}, True), ({"processor": "this one"}, False)):
        other = lock.outputs[name].model_copy(update={"sha256": "0" * 64, "made_with": made_with})
        write_lock(manifests / f"{BASE}.lock.json", lock.model_copy(update={"outputs": {**lock.outputs, name: other}}))
        if accepted:
            assert len(results_tables([manifests / f"{BASE}.yaml"], work)[0].entries) == 1
        else:
            with pytest.raises(CheckFailedError, match="the lock says 0000"):
                results_tables([manifests / f"{BASE}.yaml"], work)
