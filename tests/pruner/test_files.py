from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pruner.errors import InputError, UnavailableError
from pruner.files import atomic_file, atomic_folder, parse_json, read_json, remove_leftovers, write_errors


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("named", [".map.json.k2j.tmp", "map.json", ""])
def test_an_unwritable_place_is_named_as_the_target(tmp_path: Path, number: int, named: str) -> None:
    target, expected = tmp_path / "map.json", r"map\.json: cannot be written: .*or choose another place"
    with pytest.raises(UnavailableError, match=expected) as caught, write_errors(target):
        raise OSError(number, "no", str(tmp_path / named))
    assert ".tmp" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": "\\ud800"}',
        b'["\\uDfFf"]',
        b'{"\\udc00": 1}',
        b'["\\udc00\\ud800"]',
        b'["\xed\xa0\x80"]',
        '["\ud800"]'.encode("utf-16", "surrogatepass"),
        '["\ud800"]'.encode("utf-32-be", "surrogatepass"),
    ],
)
def test_half_of_a_surrogate_pair_is_no_text(data: bytes) -> None:
    with pytest.raises(InputError, match="x: the config holds half of a surrogate pair"):
        parse_json(data, "x", "the config")


def test_whole_surrogate_pairs_and_other_encodings_are_read() -> None:
    assert parse_json(b'["\\ud83d\\ude00", "\\\\ud800"]', "x", "it") == ["\U0001f600", "\\ud800"]
    assert parse_json('["\ud7ff\U0001f600"]'.encode(), "x", "it") == ["\ud7ff\U0001f600"]
    assert parse_json('["\U0001f600"]'.encode("utf-16"), "x", "it") == ["\U0001f600"]


def test_a_device_without_end_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "x.json").symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"x\.json: the note is larger than 1,000 bytes"):
        read_json(tmp_path / "x.json", "the note", 1000)


def test_another_file_is_not_blamed_on_the_target(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), write_errors(tmp_path / "map.json"):
        raise PermissionError(errno.EACCES, "no", str(tmp_path / "input.bin"))


def test_a_temporary_file_goes_when_its_writer_is_dead_and_stays_while_it_writes(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * 50)
    deep.mkdir(parents=True)
    (deep / ".x.json.abcdefgh.tmp").touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / ".link.json.abcdefgh.tmp").symlink_to(tmp_path / "mine")
    with atomic_file(tmp_path / "report.html") as temporary:
        temporary.write_text("new")
        remove_leftovers(tmp_path)
    assert (tmp_path / "report.html").read_text() == "new"
    assert not list(deep.iterdir())
    assert (tmp_path / "mine").is_dir()


def test_links_in_the_way_of_a_folder_are_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for name in ("out", ".out.tmp", ".out.old"):
        (tmp_path / name).symlink_to(tmp_path / "mine")
    with atomic_folder(tmp_path / "out") as fresh:
        (fresh / "y").write_text("y")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["y"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_before_anything_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut keeps cannot be tried; the order of the system calls can."""
    events: list[tuple[str, int]] = []
    fsync, rename = os.fsync, os.replace

    def recorded_fsync(descriptor: int) -> None:
        fsync(descriptor)
        events.append(("fsync", os.fstat(descriptor).st_ino))

    def recorded_rename(source: Path, target: Path, **options: int) -> None:
        events.append(("rename", source.stat().st_ino))
        rename(source, target, **options)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_rename)
    with atomic_file(tmp_path / "x") as temporary, temporary.open("wb") as file:
        file.write(b"x" * 100_000)
    inode = (tmp_path / "x").stat().st_ino
    assert events == [("fsync", inode), ("rename", inode), ("fsync", tmp_path.stat().st_ino)]
