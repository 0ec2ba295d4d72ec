"""A benchmark that the model was calibrated on and scored with, and no word about it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from release.card.lint.document import Document
from release.card.lint.finding import Finding
from release.card.lint.knowledge import Knowledge
from release.card.lint.quantities import fractions, quantities

KIND = "in-sample"
BENCHMARK = re.compile(
    r"\b(?:GPQA|MMLU|GSM8K|MATH-?500|AIME|HumanEval|MBPP|LiveCodeBench|ARC|HellaSwag|BBH|IFEval|WinoGrande|TruthfulQA|SWE-?bench)"
    r"(?:[ _-](?:Diamond|Pro|Plus|Challenge|Main|Extended))?",
    re.IGNORECASE,
)
MEASURED = re.compile(r"calibrat|teacher[- ]forc|analysis|drop map|\brank|saliency|importance|optimi[sz]ed for", re.IGNORECASE)
QUESTIONS = re.compile(r"\b(?P<count>\d[\d,]*)[ -](?:[\w.-]+[ -]){0,3}(?:questions?|prompts?|samples?)\b", re.IGNORECASE)
DISCLOSED = re.compile(
    r"in-sample|contaminat|held[- ]out|overlap|unseen|leak|calibration questions|not independent|biased", re.IGNORECASE
)
SCORE = re.compile(r"runs\.\d+\.(?:raw|score)")


def find(document: Document, knowledge: Knowledge) -> Iterator[Finding]:
    """The first line that says on which benchmark the experts were measured, when the card scores that benchmark too.

    Where the claims count the questions that exam and calibration set share, the card must give that number beside its scores.
    """
    yield from _withheld(document, knowledge.claims or {})
    if any(DISCLOSED.search(line.text) for line in document.lines):
        return
    scored = {
        match[0].lower()
        for line in document.lines
        if any(each.unit == "%" for each in quantities(line.text)) or fractions(line.text)
        for match in BENCHMARK.finditer(line.text)
    }
    measured = [
        (line.number, match[0], QUESTIONS.search(line.text))
        for line in document.lines
        if MEASURED.search(line.text)
        for match in BENCHMARK.finditer(line.text)
        if match[0].lower() in scored
    ]
    if measured:
        number, name, _questions = measured[0]
        count = next((each["count"] for _, _, each in measured if each), None)
        which = f" ({count} of its questions)" if count else ""
        yield Finding(
            number,
            KIND,
            f"experts were measured on {name}{which}, and {name} is the score; say how many questions both share: in-sample",
        )


def _withheld(document: Document, claims: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    shared = [claims.get(f"contamination.{name}") for name in ("overlap", "exam")]
    overlap, exam = [each and each["shown"].replace(",", "") for each in shared]
    scores = {claim["shown"] for name, claim in claims.items() if SCORE.fullmatch(name)}
    if overlap is None or exam is None or not scores:
        return
    for line in document.lines:
        if "calibration" in line.text and (overlap, exam) in {
            (str(each.part), str(each.whole)) for each in fractions(line.text)
        }:
            return
    first = next((line for line in document.lines if scores & {each.text.strip() for each in quantities(line.text)}), None)
    if first is not None:
        what = f"{overlap} of {exam} questions of the exam are calibration questions by its claims"
        yield Finding(first.number, KIND, f"{what}, and the card gives the score without saying so")
