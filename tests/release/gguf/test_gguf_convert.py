from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pruner.errors import CheckFailedError, InputError, UnavailableError
from release.gguf import convert as convert_module
from release.gguf.convert import check_metadata, convert
from release.gguf.reader import read_header
from release.gguf.toolchain import Toolchain

pytestmark = [pytest.mark.llama, pytest.mark.torch]


@pytest.fixture
def copy(tmp_path: Path, checkpoint: Path) -> Path:
    """The checkpoint under another path, with what a published repository has beside it."""
    folder = tmp_path / "deeper" / "other-name-7B"
    shutil.copytree(checkpoint, folder)
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model: someone/else\ntags: [x]\n---\n# A card\n")
    (folder / "configuration_evil.py").write_text("raise SystemExit('code of a checkpoint was run')\n")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    return folder


def edit(path: Path, change: Any) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_bytes_depend_on_the_checkpoint_and_not_on_its_folder_or_card(
    toolchain: Toolchain, model: Path, copy: Path, tmp_path: Path, recorder: Any
):
    target = tmp_path / "out" / "any.gguf"
    convert(toolchain, copy, target, model_name="tiny", log=tmp_path / "log", progress=recorder)
    assert target.read_bytes() == model.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["any.gguf"]
    assert recorder.done == {"converting to GGUF": 100}
    data = target.read_bytes()
    assert not any(word in data for word in (b"other-name", b"someone/else", str(tmp_path).encode()))


def test_metadata_is_that_of_the_checkpoint(model: Path, checkpoint: Path):
    header = read_header(model)
    config = json.loads((checkpoint / "config.json").read_text())["text_config"]
    assert header.value("general.name") == "tiny"
    assert header.model_value("expert_count") == config["num_experts"]
    assert header.model_value("block_count") == config["num_hidden_layers"]
    assert {tensor.type.name for tensor in header.tensors} == {"BF16", "F32"}
    check_metadata(header, checkpoint, "tiny")


CHANGES = {
    "the name": ("config.json", lambda _value: None),
    "the expert count": ("config.json", lambda value: value["text_config"].update(num_experts=3)),
    "the layer count": ("config.json", lambda value: value["text_config"].update(num_hidden_layers=9)),
    "the eos token id": ("tokenizer_config.json", lambda value: value.update(eos_token="<pad>")),
    "the text": (
        "tokenizer.json",
        lambda value: [each.update(id=20) for each in value["added_tokens"] if each["content"] == "<turn|>"],
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_gguf_that_contradicts_its_checkpoint_is_found(model: Path, copy: Path, what: str):
    file, change = CHANGES[what]
    edit(copy / file, change)
    with pytest.raises(CheckFailedError, match=what):
        check_metadata(read_header(model), copy, "tiny" if what != "the name" else "another")


def test_another_end_of_turn_is_found(model: Path, copy: Path):
    header = read_header(model)
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    assert settings["eot_token"] == "<turn|>"
    key = "tokenizer.ggml.eot_token_id"
    entry = header.entries.get(key) or header.entries["tokenizer.ggml.eos_token_id"]
    wrong = replace(header, entries={**header.entries, key: replace(entry, value=3)})
    with pytest.raises(CheckFailedError, match="the eot token id 3, the checkpoint"):
        check_metadata(wrong, copy, "tiny")


@pytest.mark.parametrize("missing", ["block_count", "expert_count"])
def test_metadata_that_is_not_there_is_found(model: Path, copy: Path, missing: str):
    header = read_header(model)
    entries = {name: entry for name, entry in header.entries.items() if not name.endswith(f".{missing}")}
    assert len(entries) == len(header.entries) - 1
    with pytest.raises(CheckFailedError, match="None"):
        check_metadata(replace(header, entries=entries), copy, "tiny")


def test_another_chat_template_is_found(model: Path, copy: Path):
    with (copy / "chat_template.jinja").open("a") as file:
        file.write("{# changed #}")
    with pytest.raises(CheckFailedError, match="the chat template with SHA-256"):
        check_metadata(read_header(model), copy, "tiny")


def test_a_converter_that_fails_leaves_the_old_file_and_nothing_else(toolchain: Toolchain, copy: Path, tmp_path: Path):
    target = tmp_path / "out" / "model.gguf"
    target.parent.mkdir()
    target.write_bytes(b"old")
    edit(copy / "config.json", lambda value: value.update(architectures=["NoSuchModel"]))
    with pytest.raises(UnavailableError, match=r"convert_hf_to_gguf\.py failed with exit code 1: .*NoSuchModel") as caught:
        convert(toolchain, copy, target, model_name="tiny", log=tmp_path / "log")
    assert "\n" not in str(caught.value)
    assert [path.name for path in target.parent.iterdir()] == ["model.gguf"]
    assert target.read_bytes() == b"old"


def test_a_full_disk_is_named_and_leaves_nothing(toolchain: Toolchain, checkpoint: Path, tmp_path: Path, tiny_disk: Any):
    disk = tiny_disk("1m")
    with pytest.raises(UnavailableError, match="no space left on the disk") as caught:
        convert(toolchain, checkpoint, disk / "model.gguf", model_name="tiny", log=tmp_path / "log")
    assert "\n" not in str(caught.value)
    assert list(disk.iterdir()) == []


def test_a_missing_package_names_the_extra(
    toolchain: Toolchain, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(convert_module, "NEEDED_PACKAGES", ("torch", "no_such_package"))
    with pytest.raises(UnavailableError, match=r"no_such_package; run `pip install 'moe-release\[analysis\]'`"):
        convert(toolchain, checkpoint, tmp_path / "model.gguf", model_name="tiny", log=tmp_path / "log")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"outtype": "bf61"}, "outtype 'bf61': use one of bf16"),
        ({"model_name": "../up"}, r"model name '\.\./up'"),
        ({"model_name": "a\nb"}, "model name"),
    ],
)
def test_wrong_arguments_are_refused(
    toolchain: Toolchain, checkpoint: Path, tmp_path: Path, arguments: dict[str, Any], expected: str
):
    with pytest.raises(InputError, match=expected):
        convert(toolchain, checkpoint, tmp_path / "m.gguf", log=tmp_path / "log", **{"model_name": "tiny", **arguments})


def test_a_folder_that_is_no_checkpoint_is_refused(toolchain: Toolchain, copy: Path, tmp_path: Path):
    for file in copy.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(InputError, match=r"no \.safetensors file"):
        convert(toolchain, copy, tmp_path / "m.gguf", model_name="tiny", log=tmp_path / "log")
    with pytest.raises(InputError, match=r"no config\.json"):
        convert(toolchain, tmp_path, tmp_path / "m.gguf", model_name="tiny", log=tmp_path / "log")
