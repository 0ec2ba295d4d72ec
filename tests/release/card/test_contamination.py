"""The overlap of calibration set and exam is counted from digests, and the card cannot leave it out."""

from __future__ import annotations

from types import SimpleNamespace

from pruner.calibration import question_digest
from release.card.facts import contamination_facts
from release.card.render import render
from release.evaluation.evidence import Evidence


def evidence(*texts: str) -> Evidence:
    questions = tuple(SimpleNamespace(question_digest=question_digest(text)) for text in texts)
    return Evidence.model_construct(quant="Q6_K", questions=questions)


def paragraph(**facts: object) -> str:
    """What stands below every table of results, on either card and alone."""
    return render("results_table.md.j2", {"rows": [], "overlaps": [{"label": "v", **facts}]}).rpartition("|\n")[2].strip()


def test_questions_are_the_same_when_their_normalised_texts_are() -> None:
    facts = contamination_facts([question_digest("What  is α?"), question_digest("Why?")], evidence("WHAT IS Α?", "When?"))
    assert [str(facts[name]) for name in ("overlap", "exam", "calibration")] == ["1", "2", "2"]
    assert "evidence/Q6_K.json" in facts["overlap"].source


def test_the_card_says_how_many() -> None:
    texts = [f"Question {number}?" for number in range(198)]
    facts = contamination_facts([question_digest(text) for text in texts[2:]], evidence(*texts))
    assert paragraph(contamination=facts) == (
        "v: 196 of 198 questions of this exam are among the 196 calibration questions that its drop map was made from: "
        "on these its scores are in-sample."
    )


def test_the_card_says_none_and_does_not_say_in_sample() -> None:
    facts = contamination_facts([question_digest("a")], evidence("b", "c"))
    assert paragraph(contamination=facts) == (
        "v: 0 of 2 questions of this exam are among the 1 calibration questions that its drop map was made from."
    )


def test_the_card_says_that_it_is_not_known() -> None:
    assert paragraph(contamination=None).startswith("v: which questions its drop map was made from is not known here")
