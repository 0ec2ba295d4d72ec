"""Every command that takes a file, given files that anybody may have written: an exit code, one line, no traceback."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from release.cli import main
from tests.conftest import MANIFESTS, TINY_MODEL

CONTENTS = {
    "empty": b"",
    "zeros": bytes(64),
    "noise": random.Random(1).randbytes(4096),
    "huge length": (1 << 63).to_bytes(8, "little") + b"{}",
    "nest": b"[" * 100_000,
    "objects": b'{"a":' * 50_000,
    "long number": b'{"0": [' + b"9" * 5000 + b"]}",
    "twice": b'{"a": 1, "a": 2}',
    "not a number": b'{"format": "moe-release/drop-map/v1", "experts": NaN}',
    "half a pair": b'{"\\ud800": "\\udfff"}',
    "null": b"null",
    "list": b"[]",
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "aliases": b"a: &a [x, x]\nb: [*a, *a]\n",
    "tag": b"!!python/object/apply:os.system [id]\n",
    "beyond Unicode": b'name: "\\U00110000"\n',
    "escape codes": b"\x1b[2J\x1b]0;x\x07: [1]\n",
    "NUL path": b'schema: moe-release/v1\nname: x\nbase: {path: "a\\0b"}\n',
    "path out": b"schema: moe-release/v1\nname: x\nbase: {path: ../../etc}\nprune: {experts: 1, drop_map: {path: /x}}\n",
    "gguf": b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 16,
    "safetensors": (2).to_bytes(8, "little") + b"{}",
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.",
    "sums": b"0" * 64 + b"  ../../x\n",
    "lock": b'{"schema": "moe-release/lock/v1", "name": "x", "inputs": {"base": {"name": "x", "files": {}}}}',
}

COMMANDS = (
    "check {}", "plan {}", "plan {} --from-headers", "card {}", "card {} --from-headers", "cut {} --until verify",
    "analyze {}", "rank {}", "evaluate {}", "table {}", "publish {}", "promote {}", "report {}", "prune {}",
    "prune {base} {} out", "prune {folder} {map} out", "prune {base} {map} out --lock {}", "verify {}",
    "verify {base} --against {}", "verify {} --requantize", "map show {}", "map diff {} {}", "map convert {} out.json",
    "gguf cut {} {map} out.gguf", "gguf cut {}.gguf {} out.gguf", "prove {folder} --base {base}",
    "prove {}.gguf --base {}.gguf", "diff {} {}", "diff {folder} {base}", "diff {}.safetensors {base}",
    "infer {folder} --base {base}", "compare {} {}", "compare {folder} {folder}", "card --lint {}",
    "card --lint {} --claims {}", "card --lint {} --files {}", "merge {} {}", "stability {}",
    "materialize {folder} --base {base} --out out",
)  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run in: with a good map, and a folder in which every file of a checkpoint is to be hostile."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("MOE_RELEASE_TRACEBACK", raising=False)
    (tmp_path / "folder").mkdir()
    lock = json.loads((MANIFESTS / "tiny-gemma4-4e.lock.json").read_text())
    (tmp_path / "map.json").write_text(json.dumps(lock["inputs"]["drop_map"]))
    return tmp_path


def put(place: Path, content: bytes) -> None:
    for name in ("x", "x.gguf", "x.safetensors", "x.yaml", "x.json"):
        (place / name).write_bytes(content)
    for name in ("config.json", "model.safetensors.index.json", "model.safetensors", "expert_drop_metadata.json"):
        (place / "folder" / name).write_bytes(content)
    (place / "folder" / "results_x.json").write_bytes(content)
    (place / "folder" / "samples_x.jsonl").write_bytes(content)
    for name in ("out", "build"):
        shutil.rmtree(place / name, ignore_errors=True)


def words_of(command: str, name: str) -> list[str]:
    known = {"{base}": str(TINY_MODEL), "{map}": "map.json", "{folder}": "folder"}
    words = [known.get(word, word) for word in command.split()]
    return [word.replace("{}", name if word == "{}" else "x") for word in words]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("command", COMMANDS)
def test_hostile_files(place: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for number, (kind, content) in enumerate(CONTENTS.items()):
        words = words_of(command, ("x.yaml", "x.json", "x")[number % 3])
        put(place, content)
        monkeypatch.setattr("sys.argv", ["moe-release", *words])
        with pytest.raises(SystemExit) as end:
            main()
        error = capsys.readouterr().err
        lines = [line for line in error.splitlines() if line.startswith("moe-release:")]
        where = f"{' '.join(words)} with {kind}: {error}"
        assert end.value.code in ((1, 2, 3) if lines else (0, None, 1)), where
        assert len(lines) <= 1, where
        assert "internal error" not in error, where
        assert "Traceback" not in error, where
        assert all(character.isprintable() for line in lines for character in line), where
