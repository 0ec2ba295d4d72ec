"""A toolchain, a tiny checkpoint and what llama.cpp makes of it, made once a session."""

from __future__ import annotations

import json
import random
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import gguf
import numpy as np
import pytest

from pruner.errors import UnavailableError
from release.gguf.convert import convert
from release.gguf.imatrix import compute_imatrix
from release.gguf.toolchain import Toolchain, find_toolchain

CHECKPOINT = Path(__file__).parents[3] / "manifests" / "tiny" / "model"


class Recorder:
    """A progress that remembers what it was told."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}
        self.totals: dict[str, int | None] = {}
        self.steps: dict[str, int] = {}
        self.notes: list[str] = []

    @contextmanager
    def task(self, title: str, total: int | None, _unit: str = "items") -> Iterator[Callable[[int], None]]:
        self.done[title], self.totals[title], self.steps[title] = 0, total, 0

        def advance(amount: int) -> None:
            self.done[title] += amount
            self.steps[title] += 1

        yield advance

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    if not (CHECKPOINT / "config.json").is_file():
        pytest.skip("manifests/tiny/model: the tiny checkpoint is not there")
    return CHECKPOINT


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """A calibration text of words that the tiny tokenizer knows."""
    vocabulary = json.loads((checkpoint / "tokenizer.json").read_text())["model"]["vocab"]
    words = [word.replace("▁", " ") for word in sorted(vocabulary) if not word.startswith("<")]
    chooser = random.Random(5)
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("".join(chooser.choice(words) for _ in range(3000)))
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, toolchain: Toolchain, checkpoint: Path) -> Path:
    """The tiny checkpoint as a bf16 GGUF."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("model")
    convert(toolchain, checkpoint, folder / "tiny-BF16.gguf", model_name="tiny", log=folder / "convert.log")
    return folder / "tiny-BF16.gguf"


@pytest.fixture(scope="session")
def imatrix(tmp_path_factory: pytest.TempPathFactory, toolchain: Toolchain, model: Path, text: Path) -> Path:
    folder = tmp_path_factory.mktemp("imatrix")
    target = folder / "tiny-imatrix.gguf"
    compute_imatrix(toolchain, model, text, target, chunks=4, context=128, threads=2, log=folder / "imatrix.log")
    return target


@pytest.fixture
def small_model(tmp_path: Path) -> Path:
    """A GGUF with two tensors, for tests whose tool is a stand-in."""
    writer = gguf.GGUFWriter(tmp_path / "small.gguf", "gemma4")
    for name in ("a.weight", "b.weight"):
        writer.add_tensor(name, np.ones((2, 256), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "small.gguf"


@pytest.fixture
def fake_tools(tmp_path: Path) -> Callable[[Mapping[str, str]], Toolchain]:
    """Build a toolchain of Python scripts, given by tool name: stand-ins for tools that are broken."""

    def make(scripts: Mapping[str, str]) -> Toolchain:
        folder = tmp_path / "tools"
        folder.mkdir()
        for name, body in scripts.items():
            script = folder / name
            script.write_text(f"#!{sys.executable}\nimport os, pathlib, signal, sys\n{body}\n")
            script.chmod(script.stat().st_mode | stat.S_IXUSR)
        return find_toolchain(folder)

    return make


@pytest.fixture(params=["seen before", "seen while writing"])
def expect_full_disk(
    request: pytest.FixtureRequest, tiny_disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, Callable[[Path], object]], None]:
    """Let a cut write `cut.gguf` to a disk of a size that is too small: one line, and nothing is left there."""
    before = request.param == "seen before"
    if not before:  # another process takes the space after the check
        monkeypatch.setattr("release.gguf.cut.require_space", lambda *_: None)

    def refused(size: str, write: Callable[[Path], object]) -> None:
        disk = tiny_disk(size)
        with pytest.raises(UnavailableError, match="the GGUF cut.gguf needs" if before else "no space left") as caught:
            write(disk / "cut.gguf")
        assert "\n" not in str(caught.value)
        assert not list(disk.iterdir())

    return refused
