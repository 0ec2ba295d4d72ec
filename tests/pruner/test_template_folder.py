"""The folder of chat templates that transformers writes is part of a checkpoint; no other folder is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pruner.build import MARKER
from pruner.checkpoint import is_companion, open_checkpoint
from pruner.errors import InputError
from pruner.materialize import materialize
from pruner.proof import prove
from pruner.sources import TEMPLATES, LocalSource
from tests.conftest import CheckpointFactory
from tests.digests import digests
from tests.pruner.test_build import run_build
from tests.pruner.test_proof import make_target, only_bad
from tests.release.test_cli import moe_release

TOOLS = f"{TEMPLATES}/tool_use.jinja"


@pytest.fixture
def base(make_checkpoint: CheckpointFactory) -> Path:
    """With all kinds of folders that bases on the Hub have."""
    base = make_checkpoint()
    for name in (
        TOOLS,
        f"{TEMPLATES}/rag.jinja",
        f"{TEMPLATES}/.hidden.jinja",
        f"{TEMPLATES}/notes.md",
        "original/params.json",
    ):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text(f"content of {name}")
    for name in ("onnx", "images", ".git"):
        (base / name).mkdir()
    return base


def test_templates_are_copied_and_other_folders_are_named_once(base: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(base)
    assert checkpoint.others == (f"{TEMPLATES}/rag.jinja", TOOLS, "tokenizer.json")
    assert checkpoint.left == (f"{TEMPLATES}/notes.md", "images/", "onnx/", "original/")
    assert {TOOLS, "tokenizer.json"} < set(checkpoint.files)
    (tmp_path / "map.json").write_text(json.dumps({"0": [1], "1": [1], "2": [1]}))
    done = moe_release("prune", base, tmp_path / "map.json", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == f"not copied: {TEMPLATES}/notes.md, images/, onnx/, original/"
    built = digests(tmp_path / "out")
    assert dict(reversed(line.split("  ")) for line in done.stdout.splitlines()) == built
    assert {name: built[name] for name in built if "/" in name} == {
        name: digest for name, digest in digests(base).items() if name in checkpoint.others and "/" in name
    }


def test_a_snapshot_of_links_gives_the_same(base: Path, tmp_path: Path) -> None:
    links, blobs = tmp_path / "models--o--b" / "snapshots" / ("c" * 40), tmp_path / "models--o--b" / "blobs"
    blobs.mkdir(parents=True)
    for number, name in enumerate(digests(base)):
        shutil.copy(base / name, blobs / str(number))
        (links / name).parent.mkdir(parents=True, exist_ok=True)
        (links / name).symlink_to(Path("../" * (2 + name.count("/"))) / "blobs" / str(number))
    run_build(base, tmp_path / "one")
    run_build(links, tmp_path / "two")
    assert TOOLS in digests(tmp_path / "one")
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


@pytest.mark.parametrize("what", ["file", "folder"])
def test_no_link_leaves_the_base(base: Path, tmp_path: Path, what: str) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key.jinja").write_text("secret")
    if what == "file":
        (base / TEMPLATES / "key.jinja").symlink_to(tmp_path / "secret" / "key.jinja")
    else:
        shutil.rmtree(base / TEMPLATES)
        (base / TEMPLATES).symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=rf"base/{TEMPLATES}/key\.jinja: a symbolic link that leaves the folder"):
        open_checkpoint(base)
    with pytest.raises(InputError, match="is no file name"):
        LocalSource(base).read(f"{TEMPLATES}/../../secret/key.jinja", 0, 1)


@pytest.mark.parametrize(
    ("name", "copied"),
    [
        (TOOLS, True),
        (f"{TEMPLATES}/deep/x.jinja", False),
        (f"{TEMPLATES}/x.py", False),
        ("other/x.jinja", False),
        ("../tokenizer.json", False),
        (f"/{TEMPLATES}/x.jinja", False),
    ],
)
def test_names_in_folders(name: str, copied: bool) -> None:
    assert is_companion(name) is copied


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(lambda path: path.write_text("x"), "differs from the base's"), (lambda path: path.unlink(), "is missing")],
)
def test_a_proof_compares_them(base: Path, tmp_path: Path, damage: Callable[[Path], object], reason: str) -> None:
    target = make_target(base, tmp_path / "target")
    assert prove(LocalSource(target), LocalSource(base)).good
    damage(target / TOOLS)
    assert only_bad(prove(LocalSource(target), LocalSource(base))) == (TOOLS, reason)


def test_materialize_makes_them_and_takes_those_of_the_target(base: Path, tmp_path: Path) -> None:
    target = make_target(base, tmp_path / "target")
    materialize(LocalSource(target), LocalSource(base), tmp_path / "one")
    assert digests(tmp_path / "one") == digests(target)
    (target / TOOLS).write_text("mended")
    (target / TEMPLATES / "more.jinja").write_text("new")
    (target / TEMPLATES / "rag.jinja").unlink()
    result = materialize(LocalSource(target), LocalSource(base), tmp_path / "two", take=True)
    assert (result.taken, result.left_out) == ((f"{TEMPLATES}/more.jinja", TOOLS), (f"{TEMPLATES}/rag.jinja",))
    assert digests(tmp_path / "two") == digests(target)
    shutil.rmtree(target / TEMPLATES)
    materialize(LocalSource(target), LocalSource(base), tmp_path / "three", take=True)
    assert not (tmp_path / "three" / TEMPLATES).exists()


def test_what_a_killed_build_left_in_the_folder_goes(base: Path, tmp_path: Path) -> None:
    left = tmp_path / ".out.partial" / TEMPLATES
    left.mkdir(parents=True)
    for name in (".rag.jinja.abcdefgh.tmp", "of_another_base.jinja"):
        (left / name).write_text("x")
    with pytest.raises(InputError, match="exists and is not an unfinished build"):
        run_build(base, tmp_path / "out")
    (left.parent / MARKER).touch()
    run_build(base, tmp_path / "out")
    run_build(base, tmp_path / "fresh")
    assert digests(tmp_path / "out") == digests(tmp_path / "fresh")


@pytest.mark.torch
def test_transformers_finds_every_template_of_the_variant(base: Path, tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    shutil.rmtree(base / TEMPLATES)
    tokenizer.save_pretrained(base)
    assert (base / TOOLS).is_file()
    run_build(base, tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == tokenizer.chat_template
