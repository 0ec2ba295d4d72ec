"""A file of another kind than the wanted one is called what it is, with where the wanted one is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pruner.errors import InputError
from release.card.lint.run import lint_file
from release.documents import load_document
from release.evaluation.evidence import read_evidence
from release.evaluation.protocol import Protocol
from release.file_kinds import KINDS, kind_of
from release.manifest import load_manifest
from tests.conftest import MANIFESTS, TINY_MODEL

NAME = "tiny-gemma4-4e"
EVIDENCE = "tiny/evidence/tiny-gemma4-16e-Q6_K.json"
FILES: dict[str, tuple[str, bytes]] = {
    "a manifest": ("x.yaml", (MANIFESTS / f"{NAME}.yaml").read_bytes()),
    "a protocol": ("p.yaml", (MANIFESTS / "protocols/tiny-exam.yaml").read_bytes()),
    "a lock": ("lock.json", (MANIFESTS / f"{NAME}.lock.json").read_bytes()),
    "the evidence of a run": ("evidence.json", (MANIFESTS / EVIDENCE).read_bytes()),
    "the ledger of a run": ("ledger.jsonl", b'{"ledger": "moe-release/ledger/v1", "model": "m"}\n{"kind": "raw"}\n'),
    "an output of lm-eval": ("results.json", b'{"results": {}, "configs": {}}'),
    "a drop map": ("map.json", b'{"0": [1, 2], "1": [3, 4]}'),
    "a checkpoint's config.json": ("config.json", next(TINY_MODEL.glob("config.json")).read_bytes()),
    "a safetensors file": ("x.safetensors", next(TINY_MODEL.glob("*.safetensors")).read_bytes()),
    "a set of questions": ("c.jsonl", (MANIFESTS / "tiny/exam/calibration.jsonl").read_bytes()),
    "a GGUF": ("x.gguf", b"GGUF\x03\x00\x00\x00"),
    "what `moe-release compare --json` printed": ("compare.json", b'{"runs": [], "comparisons": []}'),
}
READERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a manifest": (load_manifest, "a manifest is a YAML file that begins with `schema: moe-release/v1`"),
    "a protocol": (
        lambda path: load_document(path, Protocol),
        "a protocol is a YAML file that begins with `schema: moe-release/protocol/v1`",
    ),
    "the evidence of a run": (read_evidence, "`moe-release eval` writes evidence as build/NAME/eval/QUANT/evidence.json"),
}
OTHERWISE = {
    ("the evidence of a run", "the ledger of a run"): "evidence.json is written beside it when the run is whole",
    ("the evidence of a run", "an output of lm-eval"): (
        "give `moe-release compare` the folder with its results_*.json and samples_*.jsonl, and --protocol"
    ),
}


@pytest.mark.parametrize("given", FILES)
@pytest.mark.parametrize("wanted", READERS)
def test_each_file_where_another_is_wanted(wanted: str, given: str, tmp_path: Path) -> None:
    name, data = FILES[given]
    path = tmp_path / name
    path.write_bytes(data)
    read, found = READERS[wanted]
    if given == wanted:
        read(path)
        return
    with pytest.raises(InputError) as error:
        read(path)
    assert str(error.value) == f"{path}: is {given}, not {wanted}; {OTHERWISE.get((wanted, given), found)}"


@pytest.mark.parametrize("given", FILES)
def test_none_of_them_is_a_card(given: str, tmp_path: Path) -> None:
    name, data = FILES[given]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as error:
        lint_file(tmp_path / name)
    assert str(error.value) == f"{tmp_path / name}: is {given}, no model card; give the README.md of a repository"


@pytest.mark.parametrize(
    "text",
    ["", "hello", "{}", "[]", "{", "1", '{"a": 1}', "\x00", "# schema: moe-release/v1\nx: 1", json.dumps({"schema": []})],
)
def test_what_nobody_knows_has_no_kind(text: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text(text)
    assert kind_of(tmp_path / "x") is None
    assert kind_of(tmp_path) is None
    assert kind_of(tmp_path / "none") is None
    with pytest.raises(InputError) as error:
        read_evidence(tmp_path / "x")
    assert not any(kind.name in str(error.value) for kind in KINDS.values() if kind.name != "the evidence of a run")


def test_a_card_that_quotes_a_manifest_is_a_card(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# x\n```yaml\nschema: moe-release/v1\n```\n")
    assert kind_of(tmp_path / "README.md") is None
