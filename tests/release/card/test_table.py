from __future__ import annotations

import pytest
from pydantic import ValidationError

from pruner.errors import CheckFailedError
from release.card.claims import claims_in
from release.card.render import render
from release.card.table import Entry, rows
from release.evaluation.evidence import Evidence, read_evidence, totals
from release.reported import Reported
from tests.conftest import MANIFESTS

REFERENCE = read_evidence(MANIFESTS / "tiny" / "evidence" / "tiny-gemma4-16e-Q6_K.json")


def changed(*, wrong: int = 0, right: int = 0, **fields: object) -> Evidence:
    """The reference with some right answers made wrong, and some wrong ones right."""
    questions = []
    for question in REFERENCE.questions:
        update: dict[str, object] = {}
        if question.outcome == "valid" and question.raw_correct and wrong:
            wrong, update = wrong - 1, {"raw_correct": False}
        elif question.outcome == "valid" and not question.raw_correct and right:
            right, update = right - 1, {"raw_correct": True}
        questions.append(question.model_copy(update=update))
    return REFERENCE.model_copy(update={"questions": tuple(questions), **totals(tuple(questions)), **fields})


def difference(evidence: Evidence) -> str:
    return rows([Entry("base", "b.json", REFERENCE, reference=True), Entry("variant", "v.json", evidence)])[1].difference


def test_a_worse_variant_is_called_worse_and_a_better_one_better() -> None:
    assert "worse" in difference(changed(wrong=60))
    assert "better" in difference(changed(right=10))
    assert "no detectable difference" in difference(changed(wrong=1))
    assert "protocol_digest" not in difference(changed(wrong=60))


def test_what_else_differs_from_the_reference_stands_in_the_row() -> None:
    assert "also differs" not in difference(changed(quant="Q4_K_M"))
    other = changed(toolchain_commit="f" * 40, chat_template_sha256="a" * 64, unverified=("model_sha256",))
    assert difference(other).endswith(
        f"; also differs: llama.cpp {REFERENCE.toolchain_commit[:12]} and {'f' * 12}, "
        f"chat template {REFERENCE.chat_template_sha256[:12]} and {'a' * 12}, one of the two from servers elsewhere, unverified"
    )


def test_the_difference_is_a_claim_in_points_with_its_sign() -> None:
    entries = [Entry("base", "b.json", REFERENCE, reference=True)]
    entries += [
        Entry("v", "v.json", changed(wrong=60)),
        Entry("w", "w.json", changed(right=10)),
        Entry("x", "x.json", REFERENCE),
    ]
    entries += [Entry("y", "y.json", changed(protocol_digest="0" * 64))]
    found = rows(entries)
    assert [str(row.points) for row in found] == ["None", "−25.00 pp", "+4.17 pp", "±0.00 pp", "None"]
    assert found[1].points is not None
    assert (found[1].points.unit, found[1].points.value) == ("points", -60 / 240)
    table = render("results_table.md.j2", {"rows": found})
    assert "| −25.00 pp: worse (60 of 240; " in table
    assert "| reference |" in table
    claims = dict(claims_in({"rows": found}))
    assert claims["rows.2.points"]["shown"] == "+4.17 pp"


def test_another_protocol_is_said_and_not_compared() -> None:
    assert difference(changed(protocol_digest="0" * 64)).startswith("not comparable: ")


def test_without_a_reference_nothing_is_compared() -> None:
    assert rows([Entry("variant", "v.json", REFERENCE)])[0].difference == "no reference"


def test_a_partial_run_never_stands_in_a_table() -> None:
    with pytest.raises(CheckFailedError, match=r"v.json: is a partial run"):
        rows([Entry("variant", "v.json", changed(partial=True))])


def test_reported_rows_are_marked_and_in_no_test() -> None:
    reported = Reported(correct=162, total=198, raw_correct=150, url="https://example.org/card", date="2026-05-01")
    entries = [Entry("x | y", "m", reported=reported), Entry("v", "v.json", REFERENCE)]
    table = render("results_table.md.j2", {"rows": rows(entries)})
    assert "| x \\| y † |  | 150 → 162 of 198 | 75.76 % |  | 81.82 % |  | not reproduced here |" in table
    assert "\n† x \\| y: reported at https://example.org/card on 2026-05-01; not reproduced here, and in no test.\n" in table


def test_reported_rows_of_one_source_share_a_footnote_which_says_when_no_day_is_known() -> None:
    one = Reported(exam="GPQA Diamond", quant="Q6_K", correct=3, total=4, url="https://example.org/card")
    table = render("results_table.md.j2", {"rows": rows([Entry(name, "m", reported=one) for name in ("a", "b")])})
    assert table.count("†") == 3
    assert "† a, b: GPQA Diamond, reported at https://example.org/card (no date given); not reproduced here" in table
    assert "| a † | Q6_K | 3 of 4 |  |  | 75.00 % |" in table


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"correct": 199, "total": 198}, "correct is 199, of 198 questions"),
        ({"correct": 1, "total": 198, "raw_correct": 200}, "raw_correct is 200"),
        ({"correct": 159, "total": 198, "percent": "80.31"}, "159 of 198 is 80.30 %, not 80.31 %"),
        ({"correct": 159, "total": 198, "url": "http://example.org"}, "url"),
        ({"correct": 159, "total": 198, "url": "https://e.org/](x)"}, "url"),
        ({"correct": 159, "total": 198, "date": "yesterday"}, "date"),
    ],
)
def test_a_reported_score_must_add_up(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Reported.model_validate({"url": "https://example.org", **values})


@pytest.mark.parametrize("percent", ["80.30", "80.3", "80", 80.3])
def test_a_published_percentage_is_held_against_the_counts_at_its_own_digits(percent: object) -> None:
    assert Reported.model_validate({"url": "https://e.org", "correct": 159, "total": 198, "percent": percent}).correct == 159


def test_the_texts_of_a_row_are_claims_with_sources() -> None:
    found = dict(claims_in({"rows": rows([Entry("base", "b.json", REFERENCE, reference=True)])}))
    assert {"rows.0.label", "rows.0.correct", "rows.0.raw_interval", "rows.0.interval", "rows.0.difference"} <= found.keys()
    assert found["rows.0.interval"] == {
        "value": "83.2–91.5 %",
        "unit": "text",
        "source": "b.json: patched_interval",
        "shown": "83.2–91.5 %",
    }
