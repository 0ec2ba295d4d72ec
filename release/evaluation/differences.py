"""Why two files of evidence are not equal: which fields, which questions, and what of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from release.evaluation.evidence import Evidence

MOST_SHOWN = 3


def differing_evidence(before: Evidence, after: Evidence) -> list[str]:
    """One phrase with both values for each field that differs, and for each of the first few questions that do.

    Totals follow from the questions and are only told where no question differs.
    """
    one, other = (each.model_dump(mode="json", exclude={"questions"}) for each in (before, after))
    fields = [f"{name}: {one[name]} and {other[name]}" for name in one if one[name] != other[name]]
    answers = list(_differing_answers(before, after))
    if not answers:
        return fields
    follow = {"total", "outcomes", *(name for name in one if name.startswith(("raw_", "patched")))}
    kept = [phrase for phrase in fields if phrase.partition(":")[0] not in follow]
    more = [f"{len(answers) - MOST_SHOWN} more questions"] if len(answers) > MOST_SHOWN else []
    return [*kept, *answers[:MOST_SHOWN], *more]


def _differing_answers(before: Evidence, after: Evidence) -> Iterator[str]:
    one, other = _by_asked(before), _by_asked(after)
    for key in dict.fromkeys([*one, *other]):
        a, b = one.get(key), other.get(key)
        if a is None or b is None:
            yield f"question {_name(a or b or {})}: only in the {'second' if a is None else 'first'}"
        elif a != b:
            values = "; ".join(f"{name} {a[name]} and {b[name]}" for name in a if a[name] != b[name])
            yield f"question {_name(a)}: {values}"


def _by_asked(evidence: Evidence) -> dict[tuple[str, int], dict[str, Any]]:
    return {(each.question_digest, each.repeat): each.model_dump(mode="json") for each in evidence.questions}


def _name(answer: dict[str, Any]) -> str:
    return f"{answer['id']} (repeat {answer['repeat']})" if answer["repeat"] else str(answer["id"])
