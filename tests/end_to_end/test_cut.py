"""The whole chain on the tiny model, no stage replaced."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from huggingface_hub import HfApi, snapshot_download

from release.hub.local import LocalHub
from release.lock import read_lock
from release.pipeline import stage_names
from tests.conftest import ROOT, WITHOUT_TORCH
from tests.digests import spoil_lock
from tests.end_to_end.conftest import MANIFEST, Release, copy_manifests, run_command

WEIGHTS = "moe-release/tiny-gemma4-4e"
GGUF = "moe-release/tiny-gemma4-4e-GGUF"


def sums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_stage_ran(release: Release) -> None:
    assert [each["stage"] for each in release.summary["stages"]] == list(stage_names())
    assert {each["status"] for each in release.summary["stages"]} == {"done"}


def test_the_weights_equal_the_committed_lock(release: Release) -> None:
    lock = read_lock(release.manifests / "tiny-gemma4-4e.lock.json")
    assert lock is not None
    assert {name: file.sha256 for name, file in lock.weights().items()} == sums(release.work / "weights")
    assert len([name for name in lock.weights() if name.endswith(".safetensors")]) > 1


def test_the_score_is_the_evidence_and_the_card_says_it(release: Release) -> None:
    card = (release.work / "card" / "README.md").read_text()
    for quant in ("Q6_K", "Q4_K_M"):
        evidence = json.loads((release.work / "eval" / quant / "evidence.json").read_text())
        right = sum((each["patched"] or {"correct": each["raw_correct"]})["correct"] for each in evidence["questions"])
        assert right == evidence["patched_correct"] == release.summary["scores"][quant]["patched_correct"]
        assert f"{100 * right / 240:.2f} %" in card
        assert sum(evidence["outcomes"].values()) == 240
    assert "0 of 240 questions of this exam are among the 160 calibration questions" in card
    assert evidence["patched"] > 0, "the exam must give the patch pass real work"


def test_the_published_repositories_hold_what_the_lock_says(release: Release, tmp_path: Path) -> None:
    with LocalHub(release.hub) as hub:
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        for repo in (WEIGHTS, GGUF):
            commits = api.list_repo_commits(repo)
            ours = [commit for commit in commits if commit.title.startswith("tiny-gemma4-4e")]
            assert len(ours) == 1, "one commit a repository"
            assert release.summary["published"][repo] == ours[0].commit_id
            assert "v1" in [tag.name for tag in api.list_repo_refs(repo).tags]
        folder = Path(snapshot_download(WEIGHTS, endpoint=hub.endpoint, token=hub.token, local_dir=tmp_path / "weights"))
    found = {name: digest for name, digest in sums(folder).items() if not name.startswith(".cache")}
    locked = json.loads((release.work / "lock.json").read_text())["outputs"]
    expected = {path.removeprefix("weights/"): file["sha256"] for path, file in locked.items() if path.startswith("weights/")}
    assert expected.items() <= found.items()
    assert not [name for name in found if "ledger" in name or "run.json" in name], "replies stay in the work folder"
    assert found["README.md"] == locked["card/README.md"]["sha256"]
    for quant in ("Q6_K", "Q4_K_M"):
        entry = locked[f"eval/{quant}/timing.json"]
        assert found[f"reproduce/timing/{quant}.json"] == entry["sha256"]
        assert entry == {"sha256": entry["sha256"], "size": entry["size"], "varies": True}
    assert [path for path, entry in locked.items() if "varies" in entry] == [
        "eval/Q4_K_M/timing.json",
        "eval/Q6_K/timing.json",
    ]
    assert {
        "reproduce/lock.json",
        "reproduce/manifest.yaml",
        "reproduce/drop_map.json",
        "reproduce/protocol.yaml",
    } <= found.keys()


def test_no_path_of_this_machine_and_no_token_leaves_it(release: Release) -> None:
    names = ("weights", "card", "gguf", "imatrix", "eval/Q6_K/evidence.json", "eval/Q6_K/timing.json", "lock.json")
    folders = [release.work / name for name in names]
    files = [file for folder in folders for file in (folder.rglob("*") if folder.is_dir() else [folder]) if file.is_file()]
    assert len(files) > 12
    for file in files:
        content = file.read_bytes()
        assert str(release.work).encode() not in content, file
        assert str(Path.home()).encode() + b"/" not in content, file
        assert not re.search(rb"hf_[A-Za-z0-9]{20,}", content), file


def test_a_second_cut_finds_everything_up_to_date(release: Release) -> None:
    before = sums(release.work / "weights")
    again = json.loads(release.cut("--json").stdout)
    status = {each["stage"]: each["status"] for each in again["stages"]}
    always = {"preflight", "lock", "publish"}  # cheap looks at the outside: tools, the lock, the Hub
    assert {stage for stage, how in status.items() if how == "up to date"} == set(stage_names()) - always
    assert again["published"] == release.summary["published"]
    assert sums(release.work / "weights") == before


def test_shards_do_not_depend_on_workers_or_place(release: Release, tmp_path: Path) -> None:
    for workers in ("1", "2"):
        run_command(
            "prune",
            release.manifests / "tiny/model",
            release.work / "drop_map.json",
            tmp_path / workers,
            "--workers",
            workers,
            "--max-shard-size",
            "1MiB",
        )
    assert sums(tmp_path / "1") == sums(tmp_path / "2")
    built = {name: digest for name, digest in sums(release.work / "weights").items() if name.endswith(".safetensors")}
    assert built.items() <= sums(tmp_path / "1").items()


def test_a_base_on_the_hub_gives_the_same_weights(release: Release, tmp_path: Path) -> None:
    manifests = copy_manifests(tmp_path / "manifests")
    (manifests / "tiny-gemma4-4e.lock.json").unlink()
    with LocalHub(tmp_path / "the hub of the base") as hub:
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        api.create_repo("org/tiny-base", private=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Use 'content=", category=DeprecationWarning)
            commit = api.upload_folder(repo_id="org/tiny-base", folder_path=manifests / "tiny/model").oid
        (manifests / "map.json").write_bytes((release.work / "drop_map.json").read_bytes())
        (manifests / "remote.yaml").write_text(
            f"schema: moe-release/v1\nname: tiny-gemma4-4e\nbase: {{repo: org/tiny-base, revision: {commit}}}\n"
            "prune: {experts: 4, drop_map: {path: map.json}}\nweights: {max_shard_size: 1MiB}\n"
        )
        environment = {"HF_TOKEN": hub.token, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.endpoint}
        words = ("cut", manifests / "remote.yaml", "--until", "verify", "--hub", "local", "--work")
        run_command(*words, tmp_path / "work", **environment)
        strange = {**environment, "HF_TOKEN": "", "HF_HOME": str(tmp_path / "other")}
        refused = run_command(*words, tmp_path / "refused", check=False, **strange)
    assert refused.returncode == 3
    assert "org/tiny-base" in refused.stderr
    found = {name: digest for name, digest in sums(tmp_path / "work" / "weights").items() if name.endswith(".safetensors")}
    assert found
    assert found.items() <= sums(release.work / "weights").items()


def test_a_stranger_rebuilds_and_proves_from_the_hub_alone(release: Release, tmp_path: Path) -> None:
    base = release.manifests / "tiny" / "model"
    with LocalHub(release.hub) as hub:
        environment = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": hub.token, "HF_HOME": str(tmp_path / "home")}
        target = f"hf://{WEIGHTS}@{release.summary['published'][WEIGHTS]}"
        run_command("materialize", target, "--base", base, "--out", tmp_path / "rebuilt", **environment)
        run_command("prove", target, "--base", base, **environment)
        run_command("infer", target, "--base", base, "--out", tmp_path / "map.json", **environment)
        compared = run_command("diff", tmp_path / "rebuilt", target, "--json", check=False, **environment)
    assert sums(tmp_path / "rebuilt") == sums(release.work / "weights")
    found = json.loads((tmp_path / "map.json").read_text())["digest"]
    assert found == json.loads((release.work / "drop_map.json").read_text())["digest"]
    assert compared.returncode == 0


def test_what_a_card_says_about_rebuilding_works(release: Release, tmp_path: Path) -> None:
    card = (release.work / "card" / "README.md").read_text()
    line = next(line for line in card.splitlines() if line.startswith("moe-release prune"))
    (tmp_path / "reproduce").mkdir()
    (tmp_path / "reproduce" / "drop_map.json").write_bytes((release.work / "drop_map.json").read_bytes())
    words = line.replace("BASE_FOLDER", str(release.manifests / "tiny/model")).split()[1:]
    here = {"reproduce/drop_map.json": tmp_path / "reproduce/drop_map.json", "rebuilt": tmp_path / "rebuilt"}
    run_command(*(here.get(word, word) for word in words))
    (tmp_path / "SHA256SUMS").write_bytes((release.work / "SHA256SUMS").read_bytes())
    checked = subprocess.run(
        ["sha256sum", "--check", "../SHA256SUMS"], cwd=tmp_path / "rebuilt", capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout
    assert len(checked.stdout.splitlines()) == len(list((release.work / "weights").iterdir()))


@pytest.mark.parametrize("name", ["README.md", "README.gguf.md"])
def test_what_a_card_says_about_verifying_works(release: Release, tmp_path: Path, name: str) -> None:
    card = (release.work / "card" / name).read_text()
    line = next(line for line in card.splitlines() if line.startswith("moe-release verify"))
    words = line.replace("BASE_FOLDER", str(release.manifests / "tiny/model")).split()[1:]
    assert "With `--requantize` the quants are made again too" in card
    with LocalHub(release.hub) as hub:
        done = run_command(*words, "--json", check=False, **hub.environment(), HF_HOME=str(tmp_path / "home"))
    verdicts = {each["part"]: each["verdict"] for each in json.loads(done.stdout)["parts"]}
    good = dict.fromkeys(("consistency", "files", "weights", "evidence", "card"), "GOOD")
    assert (verdicts, done.returncode) == ({**good, "ggufs": "UNKNOWN"}, 3), done.stdout


def asked(run: Path) -> dict[str, float]:
    """The seconds of the questions whose replies a run, however it ended, has on its disk."""
    ledger = run / "ledger.jsonl"
    content = ledger.read_bytes() if ledger.exists() else b""
    replies = [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()[1:]]
    return {each["question"]: round(each["seconds"], 3) for each in replies if each["kind"] == "raw" and not each["error"]}


MOMENTS = {
    "in the analysis": lambda work: len(list((work / "analysis").glob("*.safetensors"))) > 20,
    "after the map": lambda work: (work / "drop_map.json").exists(),
    "in the conversion": lambda work: (work / "logs" / "convert.log").exists(),
    "in the exam": lambda work: (
        (work / "eval/Q6_K/ledger.jsonl").exists() and (work / "eval/Q6_K/ledger.jsonl").read_bytes().count(b"\n") > 60
    ),
    "in the second exam": lambda work: (work / "eval/Q4_K_M/ledger.jsonl").exists(),
}


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.end_to_end.test_cut import MOMENTS
moment, work = MOMENTS[sys.argv.pop(1)], Path(sys.argv[4])
def and_end(file, fsync=os.fsync):
    fsync(file)
    if moment(work):
        os.killpg(0, signal.SIGKILL)
os.fsync = and_end
from release.cli import main
main()
"""
"""A cut that ends itself and its tools when something has come to the disk and a moment is reached."""


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_in_the_middle_the_next_cut_ends_with_the_same_digests(release: Release, tmp_path: Path, moment: str) -> None:
    manifests = copy_manifests(tmp_path / "manifests")
    work = tmp_path / "work"
    until = "quantize" if moment in list(MOMENTS)[:3] else "eval"
    words = ["cut", manifests / MANIFEST, "--work", work, "--until", until]
    if until == "eval":  # what was made before the exam is not made again
        shutil.copytree(release.work, work, ignore=shutil.ignore_patterns("eval", "card", ".lock"))
        (work / "records" / "eval.json").unlink()
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, moment, *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = {quant: asked(work / "eval" / quant) for quant in ("Q6_K", "Q4_K_M")}
    run_command(*words)
    for folder in ("weights", "gguf", "imatrix"):
        assert sums(work / folder) == sums(release.work / folder)
    if until == "eval":
        for quant in ("Q6_K", "Q4_K_M"):
            name = f"eval/{quant}/evidence.json"
            assert (work / name).read_bytes() == (release.work / name).read_bytes()
            timing = json.loads((work / "eval" / quant / "timing.json").read_text())["questions"]
            assert before[quant].items() <= {each["question_digest"]: each["raw"] for each in timing}.items()
            assert len(timing) == 240
        assert before["Q6_K"], "something was asked before the end"
    assert not list(work.glob(".*tmp*"))


def test_a_file_that_is_not_locked_is_never_published(release: Release) -> None:
    stray = release.work / "weights" / "notes.txt"
    stray.write_text("x")
    try:
        result = release.cut("--until", "publish", check=False)
    finally:
        stray.unlink()
    assert result.returncode == 1
    assert "notes.txt: is not of this release" in result.stderr


def test_cards_need_no_torch(release: Release) -> None:
    words = ["card", str(release.manifest), "--work", str(release.work), "--json"]
    card = release.work / "card" / "README.md"
    before = card.read_bytes()
    card.unlink()
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert card.read_bytes() == before


def test_the_card_compares_with_the_reference_in_words(release: Release) -> None:
    rows = [line for line in (release.work / "card" / "results.md").read_text().splitlines() if line.startswith("| tiny")]
    assert len(rows) == 3
    assert rows[0].endswith("| reference |")
    assert all("of 240; p = " in row for row in rows[1:])
    claims = json.loads((release.work / "card" / "claims.json").read_text())
    assert all(claim["source"] for claim in claims.values())
    assert len(claims) > 60


def test_what_was_skipped_is_neither_carded_nor_published(release: Release, tmp_path: Path) -> None:
    manifests = copy_manifests(tmp_path / "manifests")
    (tmp_path / "work").mkdir()
    output = run_command(
        "cut", manifests / MANIFEST, "--work", tmp_path / "work", "--hub", "local", "--skip", "convert", "--json"
    )
    status = {each["stage"]: (each["status"], each["detail"]) for each in json.loads(output.stdout)["stages"]}
    assert status["convert"] == ("skipped", "--skip")
    for stage in ("calibrate", "quantize", "eval", "card", "publish", "readback"):
        assert status[stage][0] == "skipped", stage
        assert "which was skipped" in status[stage][1]
    assert status["prune"][0] == status["verify"][0] == "done"
    with LocalHub(tmp_path / "hub") as hub:
        assert list(HfApi(endpoint=hub.endpoint, token=hub.token).list_models()) == []


def test_a_build_that_differs_from_its_lock_stops_and_says_why(release: Release, tmp_path: Path) -> None:
    manifests = copy_manifests(tmp_path / "manifests")
    path = manifests / "tiny-gemma4-4e.lock.json"
    shard = next(name for name in json.loads(path.read_text())["outputs"] if name.startswith("weights/model-"))
    spoil_lock(path, shard)
    result = run_command("verify", manifests / MANIFEST, "--work", release.work, check=False)
    assert result.returncode == 1
    assert shard in result.stderr
    assert "--update-lock" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    shown = json.loads(run_command("verify", manifests / MANIFEST, "--work", release.work, "--json", check=False).stdout)
    assert shown["differences"]["lock"] == [{"path": shard, "kind": "changed"}]


def test_a_file_damaged_after_the_build_is_found_by_verify_and_mended_by_cut(release: Release, tmp_path: Path) -> None:
    shard = min((release.work / "weights").glob("*.safetensors"))
    original = shard.read_bytes()
    damaged = bytearray(original)
    damaged[-1] ^= 1
    shard.write_bytes(damaged)
    try:
        result = run_command("verify", release.manifest, "--work", release.work, check=False)
        assert result.returncode == 1
        assert "changed after it was written" in result.stderr
        run_command("cut", release.manifest, "--work", release.work, "--until", "verify")
        assert shard.read_bytes() == original
    finally:
        shard.write_bytes(original)


def test_plan_knows_sizes_before_anything_is_written(release: Release) -> None:
    plan = json.loads(run_command("plan", release.manifest, "--work", release.work, "--json").stdout)
    written = {path.name: path.stat().st_size for path in (release.work / "weights").glob("*.safetensors")}
    assert {shard["name"]: shard["size"] for shard in plan["shards"]} == written
