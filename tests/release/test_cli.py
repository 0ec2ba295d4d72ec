from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from release import __version__
from release.cli import main
from release.records import own_work_folder
from tests.conftest import WITHOUT_TORCH, CheckpointFactory
from tests.digests import digests

HEAVY = (
    "torch",
    "transformers",
    "lm_eval",
    "numpy",
    "scipy",
    "pydantic",
    "huggingface_hub",
    "jinja2",
    "httpx",
    "rich.progress",
)


def moe_release(*words: object, without_torch: bool = False) -> subprocess.CompletedProcess[str]:
    start = WITHOUT_TORCH if without_torch else "from release.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", start, *map(str, words)], capture_output=True, text=True, check=False, timeout=300
    )


Words = Callable[..., "Said"]


@dataclass(frozen=True)
class Said:
    """What a command ended with."""

    returncode: object
    stderr: str


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Words:
    """A command whose words are refused: then a process of its own would only take a second longer."""

    def run(*words: str) -> Said:
        monkeypatch.setattr("sys.argv", ["moe-release", *words])
        with pytest.raises(SystemExit) as end:
            main()
        return Said(end.value.code, capsys.readouterr().err)

    return run


def test_help_imports_nothing_heavy() -> None:
    code = f"import sys, release.cli; print([name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_help_lists_every_command() -> None:
    result = moe_release("--help")
    assert result.returncode == 0
    commands = "check doctor plan cut analyze rank prune verify prove quantize eval card publish hub toolchain"
    for command in commands.split():
        assert f" {command} " in result.stdout
    assert moe_release("--version").stdout.strip() == __version__


@pytest.fixture
def manifest(make_checkpoint: CheckpointFactory, tmp_path: Path) -> Path:
    make_checkpoint()
    (tmp_path / "map.json").write_text(json.dumps({"0": [1, 2], "1": [0, 3], "2": [6, 7]}))
    path = tmp_path / "v.yaml"
    path.write_text("schema: moe-release/v1\nname: v\nbase: {path: base}\nprune: {experts: 6, drop_map: {path: map.json}}\n")
    return path


def test_a_plan_before_there_is_a_map_says_what_to_run(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text("{}")
    text = manifest.read_text().replace("drop_map: {path: map.json}", "analysis: {dataset: c.jsonl}")
    manifest.write_text(text)
    result = moe_release("plan", manifest, "--work", tmp_path / "work", without_torch=True)
    assert result.returncode == 2
    assert f"no drop map yet; run `moe-release rank {manifest} --work {tmp_path / 'work'}` first" in result.stderr


def test_the_base_install_checks_plans_prunes_and_verifies_without_torch(manifest: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    assert "a valid manifest of v" in moe_release("check", manifest, without_torch=True).stdout
    plan = json.loads(moe_release("plan", manifest, "--work", work, "--json", without_torch=True).stdout)
    assert plan["experts"] == {"base": 8, "variant": 6, "top_k": 2}
    assert "6 experts" in moe_release("plan", manifest, "--work", work, without_torch=True).stdout
    made = moe_release("prune", manifest, "--work", work, "--json", without_torch=True)
    assert made.returncode == 0, made.stderr
    assert {path.name: path.stat().st_size for path in (work / "weights").glob("*.safetensors")} == {
        shard["name"]: shard["size"] for shard in plan["shards"]
    }
    verified = moe_release("verify", manifest, "--work", work, "--json", without_torch=True)
    assert verified.returncode == 0, verified.stderr
    shown = json.loads(verified.stdout)
    assert (shown["name"], shown["differences"]) == ("v", {"build": []})
    assert {file["name"]: file["found"] for file in shown["references"]["build"]} == {
        f"weights/{name}": digest for name, digest in digests(work / "weights").items()
    }
    assert all(file["status"] == "equal" and file["found"] == file["expected"] for file in shown["references"]["build"])
    said = moe_release("verify", manifest, "--work", work).stdout.splitlines()
    assert said[-1] == "5 files as they were built; compared with nothing yet: there is no lock and no prior build"


def test_prior_digests_are_compared(manifest: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    moe_release("prune", manifest, "--work", work)
    sums = subprocess.run(["sha256sum", *sorted(p.name for p in (work / "weights").iterdir())], cwd=work / "weights",
                          capture_output=True, text=True, check=True).stdout  # fmt: skip
    manifest.write_text(manifest.read_text() + "prior: [{path: SHA256SUMS}]\n")
    (tmp_path / "SHA256SUMS").write_text(sums)
    assert "equal to: build, SHA256SUMS" in moe_release("verify", manifest, "--work", work).stdout
    (tmp_path / "SHA256SUMS").write_text(sums.replace(sums[:4], "0000", 1))
    result = moe_release("verify", manifest, "--work", work)
    assert result.returncode == 1
    assert "1 file differs from SHA256SUMS" in result.stderr
    (tmp_path / "SHA256SUMS").write_text("nonsense\n")
    result = moe_release("verify", manifest, "--work", work)
    assert (result.returncode, len(result.stderr.strip().splitlines())) == (2, 1)


def test_every_reference_is_shown_and_every_difference_said(manifest: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    moe_release("prune", manifest, "--work", work)
    names = sorted(path.name for path in (work / "weights").iterdir())
    right = digests(work / "weights")
    (tmp_path / "ONE").write_text("".join(f"{right[name]}  {name}\n" for name in names))
    (tmp_path / "TWO").write_text("".join(f"{'0' * 64 if name == 'config.json' else right[name]}  {name}\n" for name in names))
    shard = next(name for name in names if name.endswith(".safetensors"))
    (tmp_path / "THREE").write_text(f"{'1' * 64}  {shard}\n")
    manifest.write_text(manifest.read_text() + "prior: [{path: ONE}, {path: TWO}, {path: THREE}]\n")
    done = moe_release("verify", manifest, "--work", work)
    assert done.returncode == 1
    for outcome in (
        "v against build: all 5 files equal", "v against ONE: all 5 files equal", "v against TWO: 1 of 5 files differs",
        "v against THREE: 1 of 1 file differs",
    ):  # fmt: skip
        assert outcome in done.stdout
    assert f"changed  weights/{shard}" in done.stdout
    assert f"{right[shard]}, expected {'1' * 64}" in done.stdout
    assert "1 file differs from TWO: weights/config.json (changed)" in done.stderr
    assert f"1 file differs from THREE: weights/{shard} (changed)" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_size_may_have_any_unit(manifest: Path, tmp_path: Path) -> None:
    done = moe_release("prune", tmp_path / "base", tmp_path / "map.json", tmp_path / "out", "--max-shard-size", "1TiB")
    assert done.returncode == 0, done.stderr
    assert manifest.exists()


def test_prune_and_verify_take_a_copy_of_the_base(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    work, copy = tmp_path / "work", tmp_path / "elsewhere"
    done = moe_release("prune", manifest, "--work", work, "--base", copy)
    assert done.returncode == 0, done.stderr
    done = moe_release("verify", manifest, "--work", work, "--base", copy)
    assert done.returncode == 0, done.stderr
    assert "v against base: all " in done.stdout
    shard = max(copy.glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    done = moe_release("verify", manifest, "--work", work, "--base", copy)
    assert done.returncode == 1
    assert f"1 file differs from the base that the weights were made from: {shard.name} (changed)" in done.stderr


def test_a_prior_must_list_shards(manifest: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    moe_release("prune", manifest, "--work", work)
    manifest.write_text(manifest.read_text() + "prior: [{path: SHA256SUMS}]\n")
    (tmp_path / "SHA256SUMS").write_text("0" * 64 + "  README.md\n")
    result = moe_release("verify", manifest, "--work", work)
    assert result.returncode == 2
    assert "lists no .safetensors file" in result.stderr


def test_a_pinned_bare_map_rebuilds_to_the_same_files(manifest: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    moe_release("prune", manifest, "--work", work)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "base").rename(tmp_path / "elsewhere" / "another name")
    result = moe_release("prune", tmp_path / "elsewhere" / "another name", work / "drop_map.json", tmp_path / "again")
    assert result.returncode == 0, result.stderr
    for path in (work / "weights").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_folder_of_other_files_is_no_work_folder(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "mine" / "weights").mkdir(parents=True)
    (tmp_path / "mine" / "weights" / "thesis.txt").write_text("x")
    result = moe_release("prune", manifest, "--work", tmp_path / "mine")
    assert result.returncode == 2
    assert "holds files that are not of a release" in result.stderr
    assert (tmp_path / "mine" / "weights" / "thesis.txt").exists()
    result = moe_release("prune", manifest, "--work", tmp_path / "map.json")
    assert (result.returncode, len(result.stderr.strip().splitlines())) == (2, 1)


def test_two_runs_do_not_share_a_work_folder(manifest: Path, tmp_path: Path) -> None:
    with own_work_folder(tmp_path / "work", "v"):
        result = moe_release("prune", manifest, "--work", tmp_path / "work")
    assert result.returncode == 3
    assert "another run works here" in result.stderr


def test_a_work_folder_belongs_to_one_release(manifest: Path, tmp_path: Path) -> None:
    moe_release("prune", manifest, "--work", tmp_path / "work")
    manifest.write_text(manifest.read_text().replace("name: v", "name: other"))
    result = moe_release("prune", manifest, "--work", tmp_path / "work")
    assert result.returncode == 2
    assert "holds the release v; choose another folder with --work" in result.stderr


@pytest.mark.parametrize(("experts", "words"), [(8, "the base has 8"), (99, "the base has 8"), (1, "the router picks 2")])
def test_an_impossible_number_of_experts_is_found_before_time_is_spent(
    manifest: Path, tmp_path: Path, experts: int, words: str
) -> None:
    manifest.write_text(manifest.read_text().replace("experts: 6", f"experts: {experts}"))
    result = moe_release("cut", manifest, "--work", tmp_path / "work", "--until", "resolve")
    assert result.returncode == 2
    assert words in result.stderr


def test_check_finds_a_missing_base(manifest: Path) -> None:
    manifest.write_text(manifest.read_text().replace("path: base", "path: bsae"))
    result = moe_release("check", manifest)
    assert result.returncode == 2
    assert "base.path: 'bsae' is no folder beside the manifest; did you mean 'base'?" in result.stderr


def test_an_edited_unpinned_file_is_noticed(manifest: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    moe_release("prune", manifest, "--work", work)
    before = json.loads((work / "drop_map.json").read_text())["digest"]
    (tmp_path / "map.json").write_text(json.dumps({"0": [1, 3], "1": [0, 3], "2": [6, 7]}))
    result = moe_release("prune", manifest, "--work", work, "--json")
    stages = {each["stage"]: each["status"] for each in json.loads(result.stdout)["stages"]}
    assert stages == {"preflight": "done", "resolve": "done", "analyze": "skipped", "rank": "done", "prune": "done"}
    assert json.loads((work / "drop_map.json").read_text())["digest"] != before


def test_foreign_names_cannot_command_the_terminal(manifest: Path) -> None:
    text = manifest.read_text().replace("map.json", '"\\e]0;owned\\a\\nmoe-release: all equal.json"')
    manifest.write_text(text)
    result = moe_release("check", manifest)
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "\x1b" not in result.stderr


def test_an_internal_error_is_one_line(manifest: Path, tmp_path: Path) -> None:
    code = "import release.manifest; release.manifest.load_manifest = lambda *_: 1 / 0; from release.cli import main; main()"
    words = [sys.executable, "-c", code, "check", str(manifest)]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert result.returncode == 3
    assert "internal error: ZeroDivisionError" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_direct_prune_prints_digests_like_sha256sum(manifest: Path, tmp_path: Path) -> None:
    result = moe_release("prune", tmp_path / "base", tmp_path / "map.json", tmp_path / "out", "--max-shard-size", "500B")
    assert result.returncode == 0, result.stderr
    (tmp_path / "sums").write_text(result.stdout)
    checked = subprocess.run(
        ["sha256sum", "--check", "../sums"], cwd=tmp_path / "out", capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("check", "nothing.yaml"), 2, "nothing.yaml: does not exist; give a YAML file"),
        (("prune", "nothing", "map.json", "out"), 2, "nothing: does not exist"),
        (("prune", "base", "nothing.json", "out"), 2, "nothing.json: the drop map does not exist"),
        (("prune", "base", "map.json", "base"), 2, "base: already exists"),
        (("prune", "base", "map.json", "base/sub"), 2, "base/sub: lies in the base's folder"),
        (("prune", "nothing", "map.json"), 2, "give MANIFEST, or BASE DROP_MAP OUT"),
        (
            ("prune", "base"),
            2,
            "base is a folder, not a manifest: give a YAML file alone, or a base as BASE DROP_MAP OUT, here base DROP_MAP OUT",
        ),
        (
            ("prune", "base", "map.json"),
            2,
            "base is a folder, not a manifest: give a YAML file alone, or a base as BASE DROP_MAP OUT, here base map.json OUT",
        ),
        (
            ("prune", "hf://org/x"),
            2,
            "hf://org/x is a repository, not a manifest: give a YAML file alone, or a base as BASE DROP_MAP OUT",
        ),
        (("prune", "https://huggingface.co/org/x"), 2, "https://huggingface.co/org/x: write hf://org/x"),
        (
            ("prune", "map.json", "base", "out"),
            2,
            "base is a folder and no drop map: give BASE DROP_MAP OUT, here base map.json",
        ),
        (
            ("prune", "v.yaml", "map.json", "out"),
            2,
            "v.yaml is a manifest, which names base and drop map itself: give it alone",
        ),
        (("prune", "x" * 999, "map.json", "out"), 2, "has a name that is too long"),
        (("prune", "base", "map.json", "out", "--metadata", "xml"), 2, "give none or pt"),
        (("prune", "base", "map.json", "out", "--max-shard-size", "huge"), 2, "is no size"),
        (
            ("prune", "base", "map.json", "out", "--max-shard-size", "0"),
            2,
            "--max-shard-size 0: a shard holds at least one byte",
        ),
        (("prune", "v.yaml", "--lock", "none.json"), 2, "--lock would do nothing: v.yaml is taken as a manifest"),
        (("prune", "v.yaml", "--metadata", "bogus"), 2, "--metadata would do nothing"),
        (("prune", "v.yaml", "--max-shard-size", "5GiB"), 2, "--max-shard-size would do nothing"),
        (
            ("prune", "base", "map.json", "out", "--work", "w"),
            2,
            "--work would do nothing: the base is base, and all is written",
        ),
        (("prune", "base", "map.json", "out", "--base", "base"), 2, "--base would do nothing"),
        (("verify", "out", "--against", "SUMS", "--base", "base"), 2, "--base is for a release on the Hub, or for a manifest"),
        (("verify", "v.yaml", "--work", "empty"), 1, "prune has not been run"),
        (("cut", "v.yaml", "--hub", "ftp://x"), 2, "give `local` or a URL"),
    ],
)
def test_bad_words_get_one_line(
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_this_process: Words,
    words: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = in_this_process(*words)
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["prunee"], "moe-release: No such command 'prunee'"),
        (["prove"], "moe-release: Missing argument 'TARGET'"),
        (["cut", "x.yaml", "--workers", "0"], "moe-release: Invalid value for '--workers'"),
    ],
)
def test_a_wrong_command_line_is_one_line(in_this_process: Words, words: list[str], line: str) -> None:
    result = in_this_process(*words)
    assert result.returncode == 2
    assert result.stderr.startswith(line), result.stderr
    assert result.stderr.count("\n") == 1


def test_an_interrupt_says_how_to_go_on() -> None:
    code = "import os, signal, time, release.manifest\n"
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it\n"
    code += "def interrupted(*_): os.kill(os.getpid(), signal.SIGINT); time.sleep(600)\n"
    code += "release.manifest.load_manifest = interrupted\nfrom release.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, "check", "x"], capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 130
    assert result.stderr == "moe-release: interrupted; run the same command again to go on from what is finished\n"


def test_a_termination_says_how_to_go_on() -> None:
    code = "import os, signal, time, release.manifest\n"
    code += "def ended(*_): os.kill(os.getpid(), signal.SIGTERM); time.sleep(600)\n"
    code += "release.manifest.load_manifest = ended\nfrom release.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, "check", "x"], capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 143
    assert result.stderr == "moe-release: interrupted; run the same command again to go on from what is finished\n"


@pytest.mark.parametrize(
    "words",
    [
        ["prove", "target", "--base", "base", "--seed", "3"],
        ["verify", "weights", "--against", "lock.json", "--base", "base"],
        ["verify", "manifest.yaml", "--exam"],
    ],
)
def test_an_option_that_would_do_nothing_is_refused(in_this_process: Words, words: list[str]) -> None:
    result = in_this_process(*words)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert words[-2] in result.stderr or words[-1] in result.stderr
