"""Pictures: equal bytes in every process, nothing of the machine in them, and what they show."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from pruner.drop_map import DropMap
from release.card.pictures.canvas import BLUE, FORMS, Form, Picture, shortened
from release.card.pictures.heat_map import experts_picture
from release.card.pictures.outcomes import Breakdown, outcomes_picture
from release.card.pictures.quants import QuantPoint, quants_picture
from release.card.pictures.results import Score, results_picture, score_of
from release.card.table import Entry
from release.evaluation.evidence import read_evidence
from release.reported import Reported
from tests.conftest import MANIFESTS, ROOT

EVIDENCE = MANIFESTS / "tiny" / "evidence" / "tiny-gemma4-16e-Q6_K.json"
MAP = DropMap({str(layer): tuple(range(layer, layer + 19)) for layer in range(30)}, 128)
DRAW = """
import hashlib, json, sys
from tests.release.card.test_pictures import pictures
print(json.dumps({f"{each.name}.{form}": hashlib.sha256(data).hexdigest()
                  for each in pictures() for form, data in each.files.items()}, sort_keys=True))
"""


def pictures() -> list[Picture]:
    quants = quants_picture(
        [
            QuantPoint("Q6_K", 19_500_000_000, 0.7525, (0.688, 0.807), 0.0031),
            QuantPoint("CD-Q6_K", 18_800_000_000, 0.74, (0.675, 0.8), 0.0043),
            QuantPoint("Q4_K_M", 13_900_000_000, divergence=0.022),
        ]
    )
    assert quants is not None
    return [
        results_picture(
            [
                Score("gemma-4-26B-A4B-it", 0.76, "Q6_K", (0.69, 0.81), 0.73, (0.66, 0.79), reference=True),
                Score("gemma-4-A4B-109e-v2", 0.71, reported=True),
                Score("a run of lm-eval", 0.70, span=(0.63, 0.76)),
            ]
        ),
        outcomes_picture(
            [
                Breakdown("Q6_K", {"valid": 180, "empty": 4, "truncated": 10, "unparsable": 3, "failed": 1}),
                Breakdown("Q4_K_M", {"valid": 170, "empty": 0, "truncated": 28, "unparsable": 0, "failed": 0}),
            ]
        ),
        quants,
        experts_picture(MAP, "gemma-4-A4B-109e-v3", 128),
    ]


@pytest.fixture(scope="module")
def drawn() -> dict[str, Picture]:
    return {each.name: each for each in pictures()}


def pixels(picture: Picture) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(picture.files["png"])).convert("RGB"))


def share_of(image: np.ndarray, colour: str) -> float:
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return float((np.abs(image.astype(int) - wanted).max(axis=-1) < 3).mean())


def test_equal_bytes_in_two_processes_whatever_the_machine_is_set_to(tmp_path: Path) -> None:
    made = []
    for name, zone in (("one", "Europe/Berlin"), ("two", "Asia/Tokyo")):
        (tmp_path / name).mkdir()
        settings = "font.family: serif\nfont.size: 30\nsvg.fonttype: none\nsavefig.dpi: 50\nfigure.facecolor: red\n"
        (tmp_path / name / "matplotlibrc").write_text(settings if name == "two" else "")
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", DRAW],
            check=True,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={"TZ": zone, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "MPLCONFIGDIR": str(tmp_path / name)},
        )
        made.append(result.stdout)
    assert made[0] == made[1]
    assert made[0].count("svg") == 4


def test_files_hold_no_date_no_version_and_no_text_that_needs_a_font(drawn: dict[str, Picture]) -> None:
    import matplotlib as mpl

    for picture in drawn.values():
        assert set(picture.files) == set(FORMS)
        svg = picture.files["svg"].decode()
        assert "<dc:date>" not in svg
        assert mpl.__version__ not in svg
        tree = ET.fromstring(svg)  # noqa: S314  # our own file
        assert not [each for each in tree.iter() if each.tag.endswith("}text")]
        assert picture.files["png"].startswith(b"\x89PNG")
        assert b"Software" not in picture.files["png"]
        assert all(len(data) < 300_000 for data in picture.files.values())


def test_the_font_is_matplotlibs_own() -> None:
    import matplotlib as mpl
    from matplotlib.font_manager import findfont

    assert Path(findfont("DejaVu Sans")).resolve().is_relative_to(Path(mpl.get_data_path()).resolve())


def test_they_are_dark_on_opaque_white_and_nothing_is_cut_off(drawn: dict[str, Picture]) -> None:
    from PIL import Image

    for picture in drawn.values():
        image = Image.open(io.BytesIO(picture.files["png"]))
        assert image.width >= 1200
        assert np.asarray(image.convert("RGBA"))[..., 3].min() == 255
        frame = pixels(picture)
        edges = [frame[0], frame[-1], frame[:, 0], frame[:, -1]]
        assert all((edge == 255).all() for edge in edges), f"{picture.name} touches its edge"


def test_a_picture_shows_its_numbers(drawn: dict[str, Picture]) -> None:
    assert share_of(pixels(outcomes_picture([Breakdown("Q", {"valid": 10, "truncated": 90})])), BLUE) < share_of(
        pixels(outcomes_picture([Breakdown("Q", {"valid": 90, "truncated": 10})])), BLUE
    )
    half = DropMap({str(layer): tuple(range(64)) for layer in range(30)}, 128)
    dark = [share_of(pixels(picture), "#1f4e79") for picture in (drawn["experts"], experts_picture(half, "half", 128))]
    assert 3 < dark[1] / dark[0] < 4  # 64 of 128 against 19 of 128


def test_the_words_say_what_the_picture_shows(drawn: dict[str, Picture]) -> None:
    assert drawn["results"].alt == (
        "Chart of scores with 95 % intervals: gemma-4-26B-A4B-it Q6_K 76.00 %, gemma-4-A4B-109e-v2 71.00 % (reported), "
        "a run of lm-eval 70.00 %"
    )
    assert (
        "Q6_K: 180 valid, 10 truncated, 4 empty, 3 unparsable, 1 failed; Q4_K_M: 170 valid, 28 truncated"
        in drawn["outcomes"].alt
    )
    assert drawn["experts"].alt == "Map of layers by experts: 19 of 128 experts are dropped in each of 30 layers"
    assert "score: Q6_K 75.25 %, CD-Q6_K 74.00 %; against mean KLD: Q6_K 0.0031" in drawn["quants"].alt


def test_no_measure_no_picture_of_quants() -> None:
    assert quants_picture([QuantPoint("Q6_K", 1000), QuantPoint("Q4_K_M", 700)]) is None


@pytest.mark.parametrize("form", FORMS)
def test_foreign_names_break_nothing(form: Form) -> None:
    names = ["$x^2$ \\frac", "模型", "--><script>alert(1)</script>", "a" * 500, "line\nbreak\x1b[31m"]
    data = results_picture([Score(name, 0.5, reported=True) for name in names]).files[form]
    if form == "svg":
        root = ET.fromstring(data)  # noqa: S314  # still well-formed
        assert not [each for each in root.iter() if each.tag.endswith("script")]


def test_a_long_name_keeps_its_beginning_and_its_end() -> None:
    short = shortened("gemma-4-A4B-109e-some-very-long-experiment-name-v3")
    assert len(short) <= 30
    assert short.startswith("gemma-4-A4B-1")
    assert short.endswith("-name-v3")


def test_a_row_of_the_table_becomes_a_score() -> None:
    run = read_evidence(EVIDENCE)
    found = score_of(Entry("base", "b.json", run, reference=True))
    assert (found.share, found.raw, found.reference) == (run.patched_share, run.raw_share, True)
    assert found.span == (run.patched_interval.low, run.patched_interval.high)
    reported = Reported(correct=162, total=198, url="https://example.org/card", date="2026-05-01")
    assert score_of(Entry("x", "m", reported=reported)) == Score("x", 162 / 198, reported=True)
