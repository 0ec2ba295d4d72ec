"""Every command that takes a file or a folder, given the other one, or what cannot be read: true words, exit code 2."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from release.cli import main
from tests.conftest import MANIFESTS, TINY_MODEL

KINDS = ("folder", "text", "binary", "empty", "dangling")
MANIFEST = (
    "check {}", "plan {}", "plan {} --from-headers", "cut {}", "analyze {}", "rank {}", "prune {}", "quantize {}", "eval {}",
    "card {}", "card {} --from-headers", "table {}", "report {}", "rehearse {}", "publish {}", "promote {}", "verify {}",
    "verify {} --requantize",
)  # fmt: skip
JSON = (
    "prune {base} {} out", "prune {base} {map} out --lock {}.json", "map show {}", "map diff {} {map}", "map diff {map} {}",
    "map convert {} out", "gguf cut {gguf} {} out", "prove {gguf} --base {gguf} --drop-map {}", "compare {} {}",
    "card --lint {card} --claims {}", "verify {base} --against {}.json",
)  # fmt: skip
OTHER = (
    "merge {} --out out", "verify {base} --against {}", "gguf cut {} {map} out", "prove {}.gguf --base {gguf}",
    "attest hf://a/b --key {} --dry-run", "verify hf://a/b --signer {}",
    "publish {tiny} --work work --sign {}",
)  # fmt: skip
FOLDER = (
    "prune {} {map} out", "verify {} --against {map}", "infer {} --base {base}", "infer {base} --base {}",
    "prove {} --base {base}", "materialize {} --base {base} --out out", "diff {} {base}", "diff {base} {}", "hub serve {}",
    "cut {tiny} --until resolve --work {}",
)  # fmt: skip
NEW = ("prune {base} {map} {}", "gguf cut {gguf} {map} {}", "infer {base} --base {base} --out {}",
       "materialize {base} --base {base} --out {}")  # fmt: skip
BELOW = ("prune {base} {map} {}/sub", "gguf cut {gguf} {map} {}/sub", "infer {base} --base {base} --out {}/sub",
         "materialize {base} --base {base} --out {}/sub", "map convert {map} {}/sub --experts 16")  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run in, with something of each kind under a plain name and under names that end as commands expect."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_nothing")
    monkeypatch.delenv("MOE_RELEASE_TRACEBACK", raising=False)
    for suffix in ("", ".json", ".gguf"):
        (tmp_path / f"folder{suffix}").mkdir()
        (tmp_path / f"text{suffix}").write_text("hello\n")
        (tmp_path / f"binary{suffix}").write_bytes(b"\xf1\xff" + random.Random(1).randbytes(3000))
        (tmp_path / f"empty{suffix}").touch()
        (tmp_path / f"dangling{suffix}").symlink_to("nowhere")
    lock = json.loads((MANIFESTS / "tiny-gemma4-4e.lock.json").read_text())
    (tmp_path / "map.json").write_text(json.dumps(lock["inputs"]["drop_map"]))
    (tmp_path / "base.gguf").write_bytes(b"GGUF")
    (tmp_path / "card.md").write_text("# A model\n")
    return tmp_path


def state(place: Path) -> dict[str, tuple[bool, bytes | None]]:
    paths = {path.name: path for path in place.iterdir() if path.name not in ("work", "build")}
    return {name: (path.is_symlink(), path.read_bytes() if path.is_file() else None) for name, path in paths.items()}


def refusal(command: str, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command ends with; it leaves everything in the folder as it was."""
    before = state(Path())
    known = {"{base}": str(TINY_MODEL), "{map}": "map.json", "{gguf}": "base.gguf", "{card}": "card.md"}
    known["{tiny}"] = str(MANIFESTS / "tiny-gemma4-4e.yaml")
    words = [known.get(word, word).replace("{}", kind) for word in command.split()]
    monkeypatch.setattr("sys.argv", ["moe-release", *words])
    with pytest.raises(SystemExit) as end:
        main()
    error = capsys.readouterr().err
    assert end.value.code == 2, f"{' '.join(words)}: {error}"
    assert error.count("\n") == 1, f"{' '.join(words)}: {error}"
    assert state(Path()) == before, f"{' '.join(words)} changed something"
    shutil.rmtree("work", ignore_errors=True)
    return error.removeprefix("moe-release: ")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", [*MANIFEST, *JSON, *OTHER])
def test_a_file_is_wanted(
    command: str, kind: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(command, kind, monkeypatch, capsys)
    assert kind in line, line
    if kind == "folder":
        assert "does not exist" not in line, line
        assert "folder" in line.replace(kind, "", 1) or "manifest" in line or "statistics" in line, line
    if kind == "dangling":
        assert "leads nowhere" in line, line
    assert "codec" not in line, line
    assert "Is a directory" not in line, line
    if command in MANIFEST:
        assert "give a YAML file" in line or "--against" in line or "wants a manifest" in line, line


EMPTY_WILL_DO = ("hub", "cut", "verify")
"""Commands for which an empty folder is right, or is not what is wrong first."""


@pytest.mark.parametrize(
    ("command", "kind"),
    [(command, kind) for command in FOLDER for kind in KINDS if kind != "folder" or not command.startswith(EMPTY_WILL_DO)],
)
def test_a_folder_is_wanted(
    command: str, kind: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(command, kind, monkeypatch, capsys)
    if command.startswith("verify") and kind not in ("folder", "dangling"):
        assert "not a usable lock" in line, line  # a file may be verified alone, and the map is no reference
        return
    assert kind in line, line
    if kind == "folder":
        assert "checkpoint" in line or "router rows" in line, line
    elif command.startswith("diff") or "infer {} " in command:  # these take a shard alone too
        assert "leads nowhere" in line or "no safetensors file" in line, line
    else:
        assert "is a file" in line or "leads nowhere" in line or "is no folder" in line, line


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", NEW)
def test_a_new_name_is_wanted(
    command: str, kind: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(command, kind, monkeypatch, capsys)
    assert line.startswith(f"{kind}: already exists; remove it or choose another "), line


@pytest.mark.parametrize("kind", ["text", "dangling"])
@pytest.mark.parametrize("command", BELOW)
def test_nothing_can_be_written_below_a_file(
    command: str, kind: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(command, kind, monkeypatch, capsys)
    why = "is a file, not a folder" if kind == "text" else "is a link that leads nowhere"
    assert line == f"{kind}/sub: cannot be written: {kind} {why}; choose another place\n"


@pytest.mark.parametrize("command", ["map convert {map} {} --experts 16", "merge {map} --out {}",
                                     "analyze {tiny} --work work --shard 0/2 --out {}"])  # fmt: skip
def test_a_folder_is_not_written_over(
    command: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(command, "folder", monkeypatch, capsys)
    assert "folder: is a folder; give the name of a file to write" in line
