"""The tiny model as a GGUF, a protocol over a few of its questions, and a llama-server that goes wrong on purpose."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from pruner.errors import UnavailableError
from pruner.files import sha256_bytes, sha256_file
from pruner.progress import SILENT, Progress
from release.evaluation.evidence import Evidence
from release.evaluation.protocol import Protocol, load_protocol
from release.evaluation.runner import evaluate
from tests.conftest import ROOT

TESTS = Path(__file__).parent
QUESTIONS = 24
MakeProtocol = Callable[..., Protocol]


class Steps:
    """A progress that calls `step` with the number of finished questions."""

    def __init__(self, step: Callable[[int], None]) -> None:
        self._step = step
        self._done = 0

    @contextmanager
    def task(self, title: str, _total: int | None, _unit: str = "items") -> Iterator[Callable[[int], None]]:
        yield self._advance if title.startswith("asking") else lambda _amount: None

    def note(self, text: str) -> None:
        raise AssertionError(text)

    def _advance(self, amount: int) -> None:
        self._done += amount
        self._step(self._done)


@dataclass(frozen=True)
class Bench:
    """Everything that an evaluation of the tiny model needs."""

    root: Path
    server_binary: Path
    toolchain_commit: str
    model: Path
    model_sha256: str

    def run(self, protocol: Protocol, folder: Path, progress: Progress = SILENT, **changes: Any) -> Evidence:
        arguments: dict[str, Any] = {
            "root": self.root,
            "server_binary": self.server_binary,
            "toolchain_commit": self.toolchain_commit,
            "model": self.model,
            "model_sha256": self.model_sha256,
            "quant": "Q6_K",
            "folder": folder,
        }
        return evaluate(protocol, progress=progress, **(arguments | changes))


@dataclass
class Faults:
    """A stand-in for the llama-server executable: the real one behind a proxy that spoils chosen replies.

    `plan` maps the number of a chat question, counted by first appearance, to what happens to its attempts in order; the last
    entry holds for all later ones.
    """

    binary: Path
    plan_file: Path
    plan: dict[str, Sequence[str]] = field(default_factory=dict)

    def set(self, **plan: Sequence[str]) -> None:
        self.plan_file.write_text(json.dumps({name.removeprefix("q"): list(faults) for name, faults in plan.items()}))

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """What each chat request that arrived asked for."""
        return [json.loads(line) for line in self.plan_file.with_suffix(".bodies").read_text().splitlines()]


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The committed tiny model, converted and quantized to Q6_K once."""
    from release.gguf.convert import convert
    from release.gguf.quantize import quantize

    toolchain = _toolchain()
    folder = tmp_path_factory.mktemp("gguf")
    log = folder / "tools.log"
    convert(toolchain, tiny_model, folder / "tiny-BF16.gguf", model_name="tiny", log=log)
    quantize(toolchain, folder / "tiny-BF16.gguf", folder / "tiny-Q6_K.gguf", quant_type="Q6_K", threads=1, log=log)
    return folder / "tiny-Q6_K.gguf"


def _toolchain() -> Any:
    from release.gguf.toolchain import find_toolchain

    try:
        return find_toolchain()
    except UnavailableError as error:
        pytest.skip(f"no llama.cpp toolchain: {error}")


@pytest.fixture(scope="session")
def exam_root(tmp_path_factory: pytest.TempPathFactory, manifests: Path) -> Path:
    """A manifests folder whose exam is the first few held-out questions."""
    root = tmp_path_factory.mktemp("manifests")
    lines = (manifests / "tiny" / "exam" / "held_out.jsonl").read_bytes().splitlines(keepends=True)
    (root / "tiny" / "exam").mkdir(parents=True)
    (root / "protocols").mkdir()
    (root / "tiny" / "exam" / "held_out.jsonl").write_bytes(b"".join(lines[:QUESTIONS]))
    return root


@pytest.fixture
def make_protocol(exam_root: Path, manifests: Path, tmp_path: Path) -> MakeProtocol:
    """The committed tiny protocol over the short exam, with changes by dotted path; gates open unless a change says else."""

    def make(questions: int = QUESTIONS, **changes: Any) -> Protocol:
        value = yaml.safe_load((manifests / "protocols" / "tiny-exam.yaml").read_text())
        lines = (exam_root / "tiny" / "exam" / "held_out.jsonl").read_bytes().splitlines(keepends=True)
        name = f"first-{questions}.jsonl"
        (exam_root / "tiny" / "exam" / name).write_bytes(b"".join(lines[:questions]))
        value["data"] |= {
            "path": f"../tiny/exam/{name}",
            "questions": questions,
            "sha256": sha256_bytes(b"".join(lines[:questions])),
        }
        value["gates"] = dict.fromkeys(value["gates"], 1.0)
        for path, each in changes.items():
            *parents, last = path.split("__")
            target = value
            for parent in parents:
                target = target[parent]
            target[last] = each
        file = exam_root / "protocols" / f"{tmp_path.name}.yaml"
        file.write_text(yaml.safe_dump(value))
        return load_protocol(file, exam_root)

    return make


@pytest.fixture(scope="session")
def bench(exam_root: Path, tiny_gguf: Path) -> Bench:
    """The tiny model and the real llama-server."""
    toolchain = _toolchain()
    return Bench(
        root=exam_root,
        server_binary=toolchain.binary("llama-server"),
        toolchain_commit=toolchain.commit,
        model=tiny_gguf,
        model_sha256=sha256_file(tiny_gguf),
    )


@pytest.fixture
def continued(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every prompt that goes to /completion on its way to the real server: no file keeps them."""
    from release.evaluation import patch

    prompts: list[str] = []
    post = patch.post

    def recording(client: Any, url: str, fields: dict[str, Any], *, seconds: float) -> Any:
        if url.endswith("/completion"):
            prompts.append(fields["prompt"])
        return post(client, url, fields, seconds=seconds)

    monkeypatch.setattr(patch, "post", recording)
    return prompts


@pytest.fixture
def faults(tmp_path: Path, bench: Bench) -> Faults:
    """An executable that starts the real llama-server behind the fault proxy."""
    binary = tmp_path / "llama-server"
    plan_file = tmp_path / "plan.json"
    plan_file.write_text("{}")
    binary.write_text(
        f"#!{sys.executable}\nimport runpy, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"sys.argv[1:1] = [{str(bench.server_binary)!r}, {str(plan_file)!r}]\n"
        f"runpy.run_path({str(TESTS / 'fault_proxy.py')!r}, run_name='__main__')\n"
    )
    binary.chmod(0o755)
    return Faults(binary, plan_file)
