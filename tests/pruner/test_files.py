from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pruner.errors import UnavailableError
from pruner.files import atomic_file, atomic_folder, remove_leftovers, write_errors


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("named", [".map.json.k2j.tmp", "map.json", ""])
def test_an_unwritable_place_is_named_as_the_target(tmp_path: Path, number: int, named: str) -> None:
    target, expected = tmp_path / "map.json", r"map\.json: cannot be written: .*or choose another place"
    with pytest.raises(UnavailableError, match=expected) as caught, write_errors(target):
        raise OSError(number, "no", str(tmp_path / named))
    assert ".tmp" not in str(caught.value)


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
