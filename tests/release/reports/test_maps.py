"""`moe-release map`: counts and differences on hand-made maps, both forms, pictures with equal bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pruner.drop_map import DropMap, drop_map_from_keep, read_drop_map
from pruner.errors import InputError
from pruner.files import canonical_json
from release.cli import app
from release.reports.maps import converted, difference, experts_of, write_picture

A = {"0": [1, 2, 3], "1": [0, 4, 5]}
B = {"0": [1, 2, 7], "1": [0, 6, 7]}


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    (tmp_path / "a.json").write_text(json.dumps(A))
    return tmp_path / "a.json"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    (tmp_path / "b.json").write_text(json.dumps(B, indent=1))
    return tmp_path / "b.json"


@pytest.fixture
def envelope(tmp_path: Path) -> Path:
    made = drop_map_from_keep([[0, 4, 5, 6, 7], [1, 2, 3, 6, 7]], ["0", "1"], 8, {"ranking": {"method": "reap"}})
    (tmp_path / "e.json").write_bytes(canonical_json(made.envelope(8)))
    return tmp_path / "e.json"


def said(*words: Any) -> str:
    result = CliRunner().invoke(app, ["map", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_show_counts(bare: Path, envelope: Path) -> None:
    assert said("show", bare).splitlines()[0] == f"{bare}: 3 experts are dropped in each of 2 layers (6 drops in all)"
    lines = said("show", envelope).splitlines()
    assert lines[0] == f"{envelope}: 3 of 8 experts are dropped in each of 2 layers, 5 are kept (6 drops in all)"
    assert lines[1] == "form    envelope"
    assert lines[2] == f"digest  {read_drop_map(bare).digest}"
    assert lines[3] == 'ranking: {"method": "reap"}'
    assert lines[4:] == ["layer    0: 3 dropped: 1-3", "layer    1: 3 dropped: 0, 4-5"]
    assert json.loads(said("show", bare, "--json"))["drop"] == {"0": [1, 2, 3], "1": [0, 4, 5]}
    assert json.loads(said("show", bare, "--json"))["drops_per_layer"] == {"0": 3, "1": 3}


def test_words_of_a_foreign_map_are_shown_and_not_obeyed(envelope: Path, tmp_path: Path) -> None:
    made = json.loads(envelope.read_text()) | {"z\x1b]0;owned\x07": "y" * 100_000}
    (tmp_path / "odd.json").write_text(json.dumps(made))
    lines = said("show", tmp_path / "odd.json").splitlines()
    assert any(line.startswith("z\\x1b]0;owned\\x07: ") for line in lines)
    assert max(map(len, lines)) < 2000


def test_show_says_when_layers_differ(tmp_path: Path) -> None:
    (tmp_path / "uneven.json").write_text('{"0": [1], "1": [1, 2], "mtp": []}')
    text = said("show", tmp_path / "uneven.json")
    assert "0 to 2 experts are dropped in each of 3 layers (3 drops in all)" in text
    assert text.splitlines()[-1] == "layer  mtp: 0 dropped"


def test_diff_says_of_what_it_is_a_share(bare: Path, other: Path) -> None:
    lines = said("diff", bare, other, "--experts", 8).splitlines()
    assert lines[2] == (
        "A and B differ in 3 of 6 drop decisions of A (50.0 %): B keeps these experts, and drops 3 others that A keeps"
    )
    assert lines[3] == "of all 16 keep-or-drop decisions (2 layers of 8 experts) they differ in 6 (37.5 %)"
    assert [line.split() for line in lines[6:]] == [
        ["0", "3", "3", "2", "1", "1"],
        ["1", "3", "3", "1", "2", "2"],
        ["all", "6", "6", "3", "3", "3"],
    ]


def test_diff_of_unequal_counts_is_not_symmetric() -> None:
    found = difference(DropMap({"0": (1, 2, 3)}), DropMap({"0": (1,), "9": (4,)}), 4)
    assert found["total"] == {"first": 3, "second": 1, "both": 1, "only_first": 2, "only_second": 0}
    assert (found["layers_only_in_first"], found["layers_only_in_second"]) == ([], ["9"])
    assert found["decisions"] == 4, "a layer that only one map has is not compared"
    with pytest.raises(InputError, match="no layer in common"):
        difference(DropMap({"0": ()}), DropMap({"1": ()}), None)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"0": [1, 2, 3, 7], "1": [0, 4, 5]}, "B drops all 6 experts that A drops, and 1 other that A keeps"),
        ({"0": [1, 2], "1": [0, 4, 5]},
         "A and B differ in 1 of 6 drop decisions of A (16.7 %): B keeps these experts, and drops none that A keeps"),
    ],
)  # fmt: skip
def test_diff_of_a_map_within_another_is_said_in_words(bare: Path, tmp_path: Path, more: dict[str, Any], line: str) -> None:
    (tmp_path / "b.json").write_text(json.dumps(more))
    assert said("diff", bare, tmp_path / "b.json").splitlines()[2] == line


def test_equal_maps_in_two_forms_do_not_differ(bare: Path, envelope: Path) -> None:
    assert "A and B drop the same 6 experts" in said("diff", bare, envelope)
    assert json.loads(said("diff", bare, envelope, "--json"))["decisions"] == 16


def test_both_forms_convert_into_each_other(bare: Path, tmp_path: Path) -> None:
    there, back = tmp_path / "there.json", tmp_path / "back.json"
    said("convert", bare, there, "--experts", 8)
    assert json.loads(there.read_text())["layers"]["0"] == {"keep": [0, 4, 5, 6, 7], "drop": [1, 2, 3]}
    said("convert", there, back, "--bare")
    assert back.read_bytes() == bare.read_bytes()
    said("convert", there, back, "--bare", "--indent", 1)
    assert back.read_text() == json.dumps(A, indent=1)
    assert read_drop_map(there).digest == read_drop_map(back).digest == read_drop_map(bare).digest


def test_an_mtp_layer_survives_conversion(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text('{"mtp": [2], "0": [1]}')
    found = read_drop_map(tmp_path / "m.json")
    assert json.loads(converted(found, "bare", None, None)) == {"0": [1], "mtp": [2]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("convert", "a.json", "out.json"), "does not say how many experts"),
        (("show", "a.json", "--picture", "out.svg"), "does not say how many experts"),
        (("show", "e.json", "--picture", "out.jpg"), r"a picture ends in \.svg or \.png"),
        (("show", "e.json", "--experts", "9"), "--experts 9 disagrees with .*e.json, which says 8"),
        (("show", "a.json", "--experts", "5"), "layer 1: expert 5 is out of range"),
        (("diff", "a.json", "none.json"), "does not exist"),
    ],
)
def test_refusals(words: tuple[str, ...], message: str, bare: Path, envelope: Path, tmp_path: Path) -> None:
    paths = [str(tmp_path / word) if "." in word else word for word in words]
    with pytest.raises(InputError, match=message):
        CliRunner().invoke(app, ["map", *paths], catch_exceptions=False)
    assert not list(tmp_path.glob("out*"))


def test_two_bases_are_not_compared() -> None:
    from pruner.drop_map import DropMap

    with pytest.raises(InputError, match="A says 8, B says 16 experts per layer"):
        experts_of({"A": DropMap({"0": ()}, 8), "B": DropMap({"0": ()}, 16)}, None)


@pytest.mark.parametrize("form", ["svg", "png"])
def test_pictures_have_equal_bytes_in_every_process(form: str, bare: Path, other: Path, tmp_path: Path) -> None:
    made = []
    for name, environment in (("one", "Europe/Berlin"), ("two", "Asia/Tokyo")):
        out = tmp_path / f"{name}.{form}"
        command = [sys.executable, "-c", "from release.cli import main; main()", "map", "diff", str(bare), str(other)]
        subprocess.run(
            [*command, "--experts", "8", "--picture", str(out)],
            check=True,
            capture_output=True,
            cwd=Path(__file__).parents[3],
            env={"TZ": environment, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "MPLCONFIGDIR": str(tmp_path / name)},
        )
        made.append(out.read_bytes())
    assert made[0] == made[1]
    assert str(tmp_path).encode() not in made[0]
    if form == "svg":
        assert b"dropped only by A" in made[0]
        assert b"<dc:date>" not in made[0]


def test_a_picture_shows_the_map(tmp_path: Path) -> None:
    import matplotlib.image as mpl

    from pruner.drop_map import DropMap

    for name, dropped in (("few", (1,)), ("many", tuple(range(1, 24)))):
        write_picture(tmp_path / f"{name}.png", [DropMap({str(n): dropped for n in range(6)})], [name], 24)
    few, many = (mpl.imread(str(tmp_path / f"{name}.png"))[..., :3] for name in ("few", "many"))
    blue = [abs(image - [0x1F / 255, 0x4E / 255, 0x79 / 255]).max(axis=-1).__lt__(0.01).sum() for image in (few, many)]
    assert 10 * blue[0] < blue[1]


def test_the_option_is_blamed_when_the_maps_agree() -> None:
    found = DropMap({"0": (1,)}, 16)
    with pytest.raises(InputError, match=r"--experts 128 disagrees with a/m\.json, which says 16"):
        experts_of({"a/m.json": found, "b/m.json": found}, 128)
    assert experts_of({"m.json": DropMap({"0": (1,)})}, 16) == 16
