from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pruner.errors import UnavailableError
from pruner.files import write_errors


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
