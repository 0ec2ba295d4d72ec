from __future__ import annotations

import pytest

from pruner.errors import InputError
from release.card.claims import Claim, Unit, claims_in
from release.card.prose import require_no_numbers
from release.card.render import cell, render_prose
from release.card.table import Row


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (44_830_000_000, "bytes", "44.83 GB (41.75 GiB)"),
        (2_877_608, "bytes", "2.88 MB (2.74 MiB)"),
        (22_400_000_000, "parameters", "22.40 B"),
        (1_438_804, "parameters", "1.44 M"),
        (0.8030303, "share", "80.30 %"),
        (-3 / 198, "points", "−1.52 pp"),
        (3 / 198, "points", "+1.52 pp"),
        (0.0, "points", "±0.00 pp"),
        (-0.000001, "points", "±0.00 pp"),
        (1234, "count", "1,234"),
        (0.00147, "measure", "0.00147"),
        (2062.360916, "measure", "2062"),
    ],
)
def test_values_are_shown_in_their_unit(value: float, unit: Unit, text: str) -> None:
    assert str(Claim(value, unit, "somewhere")) == text


@pytest.mark.parametrize(
    "text",
    [
        "It scores 80.30 %.",
        "lost −1.52 pp",
        "a\n\nb 3 questions",
        "saves 14%",
        "(5 of 10)",
        "**7**",
        "93/198",
        "lost 40pp",
        "`97.4 %`",
        "7 GB",
        ".97 accuracy",
        "a 97-percent score",
        "97percent right",
        "lost 3-5 points",
        "20-fold",
        "It scores\n97.\n",
        "97. That is the score.",
        "`scores 97 %`",
        "```\nscores 97 %\n```",
        "```text\nlost 3 points\n```",
    ],
)
def test_a_typed_number_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(InputError, match=r"about.md:\d+: the number"):
        require_no_numbers(text, "about.md")


@pytest.mark.parametrize(
    "text",
    [
        "It scores {{ score }} with `Q6_K` and 'gemma-4-A4B'.",
        "See https://example.org/2026/11 and [this](x/1).",
        "```\nllama-server -c 32768\n```",
        "1. first\n2. second",
        "1. first\n\n   more\n\n2. second",
        "```sh\nx --share 97 %\n```\n\n```python\nprint(97 % 5)\n```",
        "`--top-p 0.95`, a 4-bit type of 2026-05-01, v0.97",
        "Q6_K beats fp32 on gemma-4-26B-A4B-it",
    ],
)
def test_names_code_links_and_claims_are_no_numbers(text: str) -> None:
    require_no_numbers(text, "about.md")


def test_prose_cannot_leave_the_sandbox() -> None:
    for text in (
        "{{ ''.__class__.__mro__ }}",
        "{{ x.__init__.__globals__ }}",
        "{% include '/etc/passwd' %}",
        "{{ unknown }}",
        "{% if %}",
    ):
        with pytest.raises(InputError, match=r"about.md"):
            render_prose(text, {"x": Claim(1, "count", "s")}, "about.md")
    assert render_prose("{{ x }} experts", {"x": Claim(1, "count", "s")}, "about.md") == "1 experts"


@pytest.mark.parametrize(
    "text",
    ["{{ 97.4 }} %", "{{ '97.4 %' }}", "{{ x + 1 }}", "{% set x = 9 %}", "{{ x | int }}", "```\n{% set x = '9 %' %}\n```"],
)
def test_prose_prints_claims_by_name_only(text: str) -> None:
    with pytest.raises(InputError, match=r"about.md:\d: prose may only print claims by name"):
        require_no_numbers(f"a\n{text}", "about.md")


def test_every_claim_inside_facts_is_found_with_its_place() -> None:
    claim = Claim(0.5, "share", "evidence.json: x")
    row = Row("a", "q", "1 / 2", None, "", claim, "", "")
    found = dict(claims_in({"runs": [{"score": claim, "name": "x"}], "rows": [row]}))
    assert list(found) == ["runs.0.score", "rows.0.patched"]
    assert found["runs.0.score"] == {"value": 0.5, "unit": "share", "source": "evidence.json: x", "shown": "50.00 %"}


def test_a_table_cell_stays_in_its_cell() -> None:
    assert cell("a | b\nc") == "a \\| b c"
