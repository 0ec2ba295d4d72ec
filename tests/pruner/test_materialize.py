from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pruner.build import MARKER
from pruner.checkpoint import INDEX
from pruner.errors import CheckFailedError, InputError, UnavailableError
from pruner.exclusive import exclusive
from pruner.materialize import materialize
from pruner.sources import open_source
from tests.conftest import CheckpointFactory
from tests.digests import digests
from tests.pruner.test_build import run_build
from tests.release.test_cli import moe_release


def test_the_rebuilt_files_are_the_published_ones(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base = make_checkpoint()
    run_build(base, tmp_path / "variant")
    (tmp_path / "variant" / "README.md").write_text("a card is no part of the weights")
    result = materialize(open_source(tmp_path / "variant"), open_source(base), tmp_path / "out", workers=2)
    expected = digests(tmp_path / "variant")
    del expected["README.md"]
    assert digests(tmp_path / "out") == expected == {file.name: file.sha256 for file in result.files}


def test_another_base_leaves_nothing(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    run_build(make_checkpoint(), tmp_path / "variant")
    other = make_checkpoint("other", seed=1)
    with pytest.raises(CheckFailedError, match=r"rebuilt files? not as published: model-00001"):
        materialize(open_source(tmp_path / "variant"), open_source(other), tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"base", "variant", "other"}


def test_one_flipped_bit_is_refused(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base = make_checkpoint()
    run_build(base, tmp_path / "variant")
    shard = max((tmp_path / "variant").glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CheckFailedError, match=f"1 rebuilt file not as published: {shard.name}"):
        materialize(open_source(tmp_path / "variant"), open_source(base), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_killed_run_and_an_existing_folder(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base = make_checkpoint()
    run_build(base, tmp_path / "variant")
    shutil.copytree(tmp_path / "variant", tmp_path / ".out.unchecked")
    (tmp_path / f".out.unchecked{MARKER}").touch()
    materialize(open_source(tmp_path / "variant"), open_source(base), tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"base", "variant", "out"}
    with pytest.raises(InputError, match="already exists"):
        materialize(open_source(tmp_path / "variant"), open_source(base), tmp_path / "out")


def test_a_folder_that_only_looks_like_ours_is_kept(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base = make_checkpoint()
    run_build(base, tmp_path / "variant")
    theirs = tmp_path / ".out.unchecked" / "diary.txt"
    theirs.parent.mkdir()
    theirs.write_text("mine")
    with pytest.raises(InputError, match="not an unfinished build of ours"):
        materialize(open_source(tmp_path / "variant"), open_source(base), tmp_path / "out")
    assert theirs.read_text() == "mine"
    assert not (tmp_path / "out").exists()


def test_killed_before_the_comparison_the_next_run_finishes(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """The process dies when everything is built and nothing is compared."""
    base = make_checkpoint()
    run_build(base, tmp_path / "variant")
    script = (
        "import os, sys; from pathlib import Path\n"
        "from pruner import materialize as m; from pruner.sources import open_source\n"
        "m._published = lambda *_: os.kill(os.getpid(), 9)\n"
        "m.materialize(open_source(sys.argv[1]), open_source(sys.argv[2]), Path(sys.argv[3]))"
    )
    words = [sys.executable, "-c", script, tmp_path / "variant", base, tmp_path / "out"]
    assert subprocess.run(words, check=False, cwd=Path(__file__).parents[2]).returncode == -9
    assert (tmp_path / ".out.unchecked").is_dir()
    materialize(open_source(tmp_path / "variant"), open_source(base), tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"base", "variant", "out"}


def test_a_target_that_does_not_say_how_it_was_made(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base = make_checkpoint()
    with pytest.raises(InputError, match=r"expert_drop_metadata.json: does not exist"):
        materialize(open_source(base), open_source(base), tmp_path / "out")


def tree(folder: Path) -> dict[str, bytes | None]:
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


@pytest.mark.parametrize("place", ["base/sub", "variant/sub", "variant/a/b", "link/sub", "base/../variant/sub"])
def test_nothing_is_written_into_what_is_read(make_checkpoint: CheckpointFactory, tmp_path: Path, place: str) -> None:
    base = make_checkpoint()
    run_build(base, tmp_path / "variant")
    (tmp_path / "link").symlink_to("variant")
    before = tree(tmp_path)
    with pytest.raises(InputError, match=r"lies in the (base|target)'s folder, which nothing is written to; choose a"):
        materialize(open_source(tmp_path / "variant"), open_source(base), tmp_path / place)
    assert tree(tmp_path) == before


def as_others_publish(variant: Path) -> None:
    """The shards are the tool's; a person reformatted the config, mended the template, added a license, lost a file."""
    config = json.loads((variant / "config.json").read_text())
    (variant / "config.json").write_text(json.dumps(config))
    index = json.loads((variant / INDEX).read_text())
    (variant / INDEX).write_text(json.dumps(index, indent=4))
    (variant / "chat_template.jinja").write_text("mended")
    (variant / "LICENSE-MODEL").write_text("terms")
    (variant / "tokenizer.json").unlink()
    (variant / "modeling.py").write_text("raise SystemExit")
    (variant / "README.md").write_text("a card")


def test_small_files_are_taken_as_published_when_they_are_not_as_rebuilt(
    make_checkpoint: CheckpointFactory, tmp_path: Path
) -> None:
    base, variant = make_checkpoint(), tmp_path / "variant"
    (base / "chat_template.jinja").write_text("faulty")
    run_build(base, variant)
    as_others_publish(variant)
    taken = ["LICENSE-MODEL", "chat_template.jinja", "config.json", INDEX]
    with pytest.raises(CheckFailedError, match="rebuilt files not as published"):
        materialize(open_source(variant), open_source(base), tmp_path / "out")
    done = moe_release("materialize", variant, "--base", base, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert f"taken as published: {', '.join(taken)}" in done.stderr
    assert "left out, as the target has none: tokenizer.json" in done.stderr
    expected = digests(variant)
    del expected["README.md"], expected["modeling.py"]
    assert digests(tmp_path / "out") == expected
    assert dict(reversed(line.split("  ")) for line in done.stdout.splitlines()) == expected
    content = json.loads(moe_release("materialize", variant, "--base", base, "--out", tmp_path / "two", "--json").stdout)
    assert content == {"files": expected, "taken": taken, "left_out": ["tokenizer.json"]}


def test_shards_are_never_taken(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base = make_checkpoint()
    run_build(base, tmp_path / "variant")
    as_others_publish(tmp_path / "variant")
    shard = max((tmp_path / "variant").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    done = moe_release("materialize", tmp_path / "variant", "--base", base, "--out", tmp_path / "out")
    assert (done.returncode, f"1 rebuilt file not as published: {shard.name}" in done.stderr) == (1, True)
    assert {path.name for path in tmp_path.iterdir()} == {"base", "variant"}


def test_an_index_that_leads_elsewhere_is_not_taken(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base = make_checkpoint()
    run_build(base, tmp_path / "variant")
    index = json.loads((tmp_path / "variant" / INDEX).read_text())
    index["weight_map"][next(iter(index["weight_map"]))] = "model-extra.safetensors"
    (tmp_path / "variant" / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckFailedError, match="leads to other tensors or shards than were rebuilt"):
        materialize(open_source(tmp_path / "variant"), open_source(base), tmp_path / "out", take=True)
    assert {path.name for path in tmp_path.iterdir()} == {"base", "variant"}


def test_only_one_process_makes_a_folder(make_checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    base = make_checkpoint()
    run_build(base, tmp_path / "variant")
    (tmp_path / ".out.unchecked").mkdir()
    (tmp_path / ".out.unchecked" / "theirs").touch()
    with exclusive(tmp_path / f".out.unchecked{MARKER}", "busy"):
        with pytest.raises(UnavailableError, match="another process makes it; wait for its end"):
            materialize(open_source(tmp_path / "variant"), open_source(base), tmp_path / "out")
        assert (tmp_path / ".out.unchecked" / "theirs").exists()
