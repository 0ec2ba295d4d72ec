from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pruner.errors import InputError
from pruner.files import sha256_file
from pruner.sources import LocalSource
from release.lock import Lock, LockedBase, LockedFile, LockedInputs, write_lock
from release.references import compare, compare_file, comparison_table, read_reference
from tests.release.test_cli import moe_release


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in ("a.safetensors", "b.safetensors", "config.json"):
        (folder / name).write_text(name)
    (folder / "README.md").write_text("a card")
    return folder


def sums(weights: Path, names: tuple[str, ...]) -> Path:
    lines = [f"{hashlib.sha256((weights / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    path = weights.parent / "SHA256SUMS"
    path.write_text("".join(lines))
    return path


def lock(weights: Path) -> Path:
    path = weights.parent / "x.lock.json"
    outputs = {
        f"weights/{name}": LockedFile(sha256=hashlib.sha256((weights / name).read_bytes()).hexdigest(), size=1)
        for name in ("a.safetensors", "b.safetensors", "config.json")
    }
    write_lock(path, Lock(name="x", inputs=LockedInputs(base=LockedBase(name="b", files={})), outputs=outputs))
    return path


def statuses(weights: Path, reference: Path, **options: int) -> dict[str, str]:
    return {each.name: each.status for each in compare(LocalSource(weights), read_reference(reference), **options)}


def test_equal_files_are_equal_for_any_workers(weights: Path) -> None:
    expected = dict.fromkeys(("a.safetensors", "b.safetensors", "config.json"), "equal")
    for workers in (1, 3):
        assert statuses(weights, lock(weights), workers=workers) == expected
    both = sums(weights, ("a.safetensors", "b.safetensors"))
    assert statuses(weights, both) == {"a.safetensors": "equal", "b.safetensors": "equal"}
    one = sums(weights, ("a.safetensors",))
    assert statuses(weights, one) == {"a.safetensors": "equal", "b.safetensors": "new"}, "a shard that nobody listed"
    for name in ("pytorch_model.bin", "modeling_x.py", "notes.txt"):
        (weights / name).write_text("x")
    new = dict.fromkeys(("b.safetensors", "modeling_x.py", "pytorch_model.bin"), "new")
    assert statuses(weights, one) == {"a.safetensors": "equal", **new}, "a loader may run them"


def test_what_differs_is_told_apart(weights: Path) -> None:
    reference = lock(weights)
    (weights / "a.safetensors").write_text("x")
    (weights / "b.safetensors").unlink()
    (weights / "c.json").write_text("x")
    assert statuses(weights, reference) == {
        "a.safetensors": "changed",
        "b.safetensors": "missing",
        "c.json": "new",
        "config.json": "equal",
    }
    read = read_reference(reference)
    table = comparison_table(compare(LocalSource(weights), read), "weights", read)
    assert table.endswith("weights against x.lock.json: 3 of 4 files differ, 1 of them missing")


@pytest.mark.parametrize("place", [".", "reproduce"])
def test_a_folder_is_read_for_its_lock_or_its_sums(weights: Path, place: str) -> None:
    folder = weights / place
    folder.mkdir(exist_ok=True)
    sums(weights, ("a.safetensors", "b.safetensors")).rename(folder / "SHA256SUMS")
    assert statuses(weights, weights) == dict.fromkeys(("a.safetensors", "b.safetensors"), "equal")
    lock(weights).rename(folder / "lock.json")  # names every file, and so is preferred
    assert statuses(weights, weights) == dict.fromkeys(("a.safetensors", "b.safetensors", "config.json"), "equal")
    done = moe_release("verify", weights, "--against", weights)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "weights against lock.json: all 3 files equal")
    (folder / "other.lock.json").write_text("{}")
    with pytest.raises(InputError, match=r"several locks, lock.json and other.lock.json"):
        read_reference(weights)


def test_a_folder_without_either_is_refused(weights: Path) -> None:
    with pytest.raises(InputError, match="neither a lock nor SHA256SUMS; `moe-release diff`"):
        read_reference(weights)


def test_the_command_exits_with_1_on_a_mismatch(weights: Path) -> None:
    reference = lock(weights)
    done = moe_release("verify", weights, "--against", reference)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "weights against x.lock.json: all 3 files equal")
    (weights / "a.safetensors").write_text("x")
    done = moe_release("verify", weights, "--against", reference, "--json")
    assert done.returncode == 1
    assert [each["status"] for each in json.loads(done.stdout)["files"]] == ["changed", "equal", "equal"]


def test_one_file_is_compared_by_its_name(weights: Path) -> None:
    gguf = weights.parent / "x-Q6_K.gguf"
    gguf.write_bytes(b"GGUF")
    (weights.parent / "SHA256SUMS").write_text(f"{sha256_file(gguf)}  {gguf.name}\n{'0' * 64}  x-Q8_0.gguf\n")
    done = moe_release("verify", gguf, "--against", weights.parent / "SHA256SUMS")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "x-Q6_K.gguf against SHA256SUMS: the 1 file equal")
    gguf.write_bytes(b"GGUG")
    assert moe_release("verify", gguf, "--against", weights.parent / "SHA256SUMS").returncode == 1
    gguf.write_bytes(b"GGUF")
    other = gguf.rename(weights.parent / "x-Q4_K.gguf")
    done = moe_release("verify", other, "--against", weights.parent / "SHA256SUMS")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "SHA256SUMS: names no x-Q4_K.gguf; by its digest it is x-Q6_K.gguf" in done.stderr
    done = moe_release("verify", other)
    assert (done.returncode, "a file of weights: say with --against" in done.stderr) == (2, True)
    one = weights / "a.safetensors"
    assert moe_release("verify", one, "--against", lock(weights)).returncode == 0


def test_names_in_sums_are_shown_and_not_obeyed(weights: Path) -> None:
    (weights.parent / "SHA256SUMS").write_text(f"{'0' * 64}  a\x1b]0;owned\x07\u202e.gguf\n")
    read = read_reference(weights.parent / "SHA256SUMS")
    table = comparison_table(compare(LocalSource(weights), read), "weights", read)
    assert "a\\x1b]0;owned\\x07\\u202e.gguf" in table
    assert table.replace("\n", "").isprintable()


def test_a_gguf_is_compared_with_a_lock(tmp_path: Path) -> None:
    gguf = tmp_path / "x-Q6_K.gguf"
    gguf.write_bytes(b"GGUF")
    outputs = {"gguf/x-Q6_K.gguf": LockedFile(sha256=sha256_file(gguf), size=4)}
    write_lock(
        tmp_path / "lock.json", Lock(name="x", inputs=LockedInputs(base=LockedBase(name="b", files={})), outputs=outputs)
    )
    assert compare_file(gguf, read_reference(tmp_path / "lock.json", quants=True)).status == "equal"
    assert read_reference(tmp_path / "lock.json").files == {}
    (tmp_path / "README.md").write_text("x")
    with pytest.raises(InputError, match=r"names no README.md; it names x-Q6_K.gguf"):
        compare_file(tmp_path / "README.md", read_reference(tmp_path / "lock.json", quants=True))


def test_a_name_on_the_hub_is_led_to_its_address(weights: Path) -> None:
    for words in (("verify", "org/name"), ("verify", "org/name", "--against", weights), ("diff", "org/name", weights)):
        done = moe_release(*words)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "org/name: does not exist here; a repository on the Hub is written hf://org/name" in done.stderr


def test_a_folder_without_a_reference_is_refused(weights: Path) -> None:
    done = moe_release("verify", weights)
    assert done.returncode == 2
    assert "say with --against what it must equal" in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"abc", "SHA256SUMS:1: expected lines of sha256sum"),
        (b"\xff\xfe", "neither a lock nor lines"),
        (b"", "is empty; expected lines of sha256sum"),
        (None, "does not exist"),
    ],
)
def test_what_is_no_reference_is_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "SHA256SUMS"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_reference(path)
