from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from pruner.errors import InputError
from release.documents import Document, load_document


class Wheel(Document):
    size: int = Field(gt=0)
    tyre: Literal["slick", "rain"] = "slick"


class Car(Document):
    name: str
    wheels: list[Wheel] = Field(default_factory=list)
    spare: Wheel | None = None


def load(tmp_path: Path, text: str) -> Car:
    path = tmp_path / "car.yaml"
    path.write_text(text, encoding="utf-8")
    return load_document(path, Car)


def test_a_valid_document(tmp_path: Path) -> None:
    assert load(tmp_path, "name: x\nwheels: [{size: 3}, {size: 4, tyre: rain}]\n").wheels[1].tyre == "rain"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nmae: x\n", r"car.yaml:1:1: unknown key 'nmae'; did you mean 'name'\?"),
        (
            "name: x\nwheels:\n  - {size: 3}\n  - {sise: 4}\n",
            r"car.yaml:4:6: unknown key 'wheels.1.sise'; did you mean 'size'\?",
        ),
        ("name: x\nwheels:\n  - size: -3\n", r"car.yaml:3:5: wheels.0.size: input should be greater than 0"),
        ("name: x\nspare: {size: 1, tyre: snow}\n", r"car.yaml:2:18: spare.tyre: input should be 'slick' or 'rain'"),
        ("wheels: []\n", r"car.yaml:1:1: key 'name' is missing"),
        ("name: x\nname: y\n", r"car.yaml:2:1: key 'name' appears twice"),
        ("name: [\n", r"car.yaml:2:1: not valid YAML"),
        ("- a\n", r"car.yaml:1:1: expected a mapping"),
        ("", r"car.yaml: is empty; give a YAML file"),
        ("name: !!python/object/apply:os.system [id]\n", r"car.yaml:1:7: the tag .* is not supported"),
        ("name: &a x\nspare: *a\n", r"car.yaml:2:8: not valid YAML: aliases are not supported"),
        ("? [a]\n: b\n", r"car.yaml:1:3: a key must be a word"),
        ("name: 2026-11-24\nwheels: [{size: 0x}]\n", r"car.yaml:2:11: wheels.0.size"),
        ("name: \x01\n", r"car.yaml.*not valid YAML"),
        (f"name: 0x{'f' * 4000}\n", r"car.yaml:1:7: a number of more than 64 bits"),
    ],
)
def test_an_error_is_one_line_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_typo_in_a_second_key(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown key 'nmae'; did you mean 'name'"):
        load(tmp_path, "name: x\nnmae: y\n")


def test_binary_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        load_document(tmp_path / "x.yaml", Car)
    with pytest.raises(InputError, match=r"none.yaml: does not exist; give a YAML file"):
        load_document(tmp_path / "none.yaml", Car)


def test_a_nest_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r":1:51: not valid YAML: values are nested more than 50 deep$"):
        load(tmp_path, "[" * 20_000)


def test_a_letter_beyond_unicode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not valid YAML: chr\(\) arg not in range"):
        load(tmp_path, 'name: "\\U00110000"\n')


def test_dates_stay_text(tmp_path: Path) -> None:
    assert load(tmp_path, "name: 2026-11-24\n").name == "2026-11-24"
