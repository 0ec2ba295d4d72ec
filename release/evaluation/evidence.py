"""Evidence: a finished run, scored.  Canonical JSON without texts, clocks or paths: equal runs give equal bytes.

How many seconds a reply took differs from run to run; it stands beside the evidence, in a file of its own:
`release.evaluation.timing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import FailFast, Field, ValidationError, model_validator

from pruner.errors import CheckFailedError, InputError
from pruner.files import canonical_json, digest_of, write_atomic
from pruner.wording import counted
from release.documents import Document, load_json_document
from release.evaluation.consistency import contradictions, disagreements
from release.evaluation.folds import Fold
from release.evaluation.outcomes import Cause, breakdown
from release.evaluation.protocol import MOST_REPEATS, OutcomeName, Protocol, protocol_digest
from release.evaluation.stats import clustered_interval, clustered_mean, wilson_interval
from release.file_kinds import EVIDENCE, KINDS, kind_of, mistaken
from release.patterns import Sha256

DECIMALS = 6
"""Of shares and intervals: coarser than any difference between two machines' floating point, finer than any use."""
LARGEST_EVIDENCE = 256 << 20
"""Bytes; a file beyond this is not read."""
Tokens = Annotated[int, Field(ge=0, lt=2**31)]


class Patched(Document):
    """The patch of one question: its letter, if it gave one, and the digest of its reply."""

    letter: str | None
    correct: bool
    reply_digest: Sha256


class Answered(Document):
    """One question, or one repeat of it: how it was put, what came back, and how that was scored.

    `option_order[i]` is the data set's column of the i-th option.  `raw_correct` is lm-eval's own metric.
    """

    id: str
    repeat: Annotated[int, Field(ge=0, lt=MOST_REPEATS)] = 0
    question_digest: Sha256
    prompt_digest: Sha256
    option_order: Annotated[tuple[Annotated[int, Field(ge=0, lt=26)], ...], Field(min_length=2, max_length=26)]
    target: str
    outcome: OutcomeName
    cause: Cause | None
    looping: bool
    raw_letter: str | None
    raw_correct: bool
    finish_reason: str | None
    prompt_tokens: Tokens | None
    completion_tokens: Tokens | None
    reply_digest: Sha256
    patched: Patched | None

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if problem := next(contradictions(self), None):
            raise ValueError(problem)
        return self

    @property
    def correct(self) -> bool:
        """After the patch: its answer where there is one, else lm-eval's."""
        return self.patched.correct if self.patched else self.raw_correct

    @property
    def letter(self) -> str | None:
        """After the patch."""
        return self.patched.letter if self.patched else self.raw_letter


class Calibration(Document):
    """The questions that the model's experts were chosen with.

    Attributes:
        questions: how many.
        questions_digest: of all of them, in whatever order.
        overlap: digests of those that the exam asks too, in the exam's order; its score is not one of unseen questions then.
    """

    questions: int
    questions_digest: Sha256
    overlap: Annotated[tuple[Sha256, ...], FailFast()]


class Interval(Document):
    """A 95 % interval, as shares of 1: Wilson's, with repeats for answers that depend on each other within a question."""

    low: float
    high: float


class Evidence(Document):
    """Everything that a card may say about one run.

    Attributes:
        partial: the run was limited, or is of one fold; it can never stand on a card.
        fold: the part of the exam that it answers, where that was asked for; only `moe-release cross-fit` takes it.
        unverified: what nobody could check, because the servers ran elsewhere; first of all that they had this model file.
        calibration: of the experts' choice, where the release made that choice itself.
        tokenizer_sha256: of the model file, see `release.evaluation.tokenizer`; older evidence does not tell it.
        repeats: how often each question was asked; left out of the file when once.
        total: answers, which are questions times repeats.
        outcomes: number of answers for each outcome, before the patch; sums to `total`.
        raw_correct: by lm-eval's own metric.
        raw_error, patched_error: standard errors of the mean scores, clustered by question; only with repeats.
        patched: answers that were patched.
        patched_right: of these, answered correctly by the patch.
        raw_correct_replaced: of these, correct already by lm-eval (a letter in a truncated reply); nearly always 0.
        patched_correct: raw_correct - raw_correct_replaced + patched_right.
        patched_luck: correct answers that guessing gives on average among the patched.
    """

    schema_name: Literal["moe-release/evidence/v1"] = "moe-release/evidence/v1"
    partial: bool
    protocol: str
    protocol_digest: Sha256
    model_file: str
    model_sha256: Sha256
    quant: str
    toolchain_commit: str
    chat_template_sha256: Sha256
    lm_eval: str
    task: str
    task_version: float
    metric: str
    filter: str
    data_sha256: Sha256
    questions_digest: Sha256
    patch_method: str | None
    patch_outcomes: Annotated[tuple[OutcomeName, ...], FailFast()]
    total: int
    raw_correct: int
    raw_interval: Interval
    outcomes: dict[OutcomeName, int]
    patched: int
    patched_right: int
    raw_correct_replaced: int
    patched_luck: float
    patched_correct: int
    patched_interval: Interval
    questions: Annotated[tuple[Answered, ...], FailFast(), Field(min_length=1)]
    unverified: Annotated[tuple[str, ...], FailFast()] = ()
    calibration: Calibration | None = None
    fold: Fold | None = None
    tokenizer_sha256: Sha256 | None = None
    repeats: Annotated[int, Field(ge=1, le=MOST_REPEATS)] = 1
    raw_error: float | None = None
    patched_error: float | None = None

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        """Recompute every total from the questions; what does not add up is no evidence."""
        if problem := next(disagreements(self), None):
            raise ValueError(problem)
        for name, value in totals(self.questions).items():
            if getattr(self, name) != value:
                raise ValueError(f"{name} is {getattr(self, name)!r}, its questions give {value!r}")
        return self

    @property
    def asked(self) -> int:
        """Questions, each counted once however often it was asked."""
        return self.total // self.repeats

    @property
    def raw_share(self) -> float:
        """Raw score as a share of 1."""
        return self.raw_correct / self.total

    @property
    def patched_share(self) -> float:
        """Patched score as a share of 1."""
        return self.patched_correct / self.total


def totals(questions: tuple[Answered, ...]) -> dict[str, Any]:
    """The evidence's totals from its questions."""
    patched = [each for each in questions if each.patched]
    raw = sum(each.raw_correct for each in questions)
    final = sum(each.correct for each in questions)
    raw_spread, final_spread = _spread(questions, raw=True), _spread(questions, raw=False)
    return {
        "total": len(questions),
        "raw_correct": raw,
        "raw_interval": raw_spread[0],
        "raw_error": raw_spread[1],
        "outcomes": breakdown(each.outcome for each in questions),
        "patched": len(patched),
        "patched_right": sum(each.correct for each in patched),
        "raw_correct_replaced": sum(each.raw_correct for each in patched),
        "patched_luck": round(len(patched) / len(questions[0].option_order), DECIMALS),
        "patched_correct": final,
        "patched_interval": final_spread[0],
        "patched_error": final_spread[1],
    }


def by_question(questions: Sequence[Answered], *, raw: bool) -> dict[str, list[bool]]:
    """Whether each repeat of each question, by its digest, is correct; before the patch when `raw`."""
    found: dict[str, list[bool]] = {}
    for each in questions:
        found.setdefault(each.question_digest, []).append(each.raw_correct if raw else each.correct)
    return found


def _spread(questions: tuple[Answered, ...], *, raw: bool) -> tuple[Interval, float | None]:
    """The score's interval, and with repeats its standard error."""
    scores = list(by_question(questions, raw=raw).values())
    if len(scores) == len(questions):
        return interval(sum(map(sum, scores)), len(questions)), None
    low, high = clustered_interval(scores)
    return Interval(low=round(low, DECIMALS), high=round(high, DECIMALS)), round(clustered_mean(scores)[1], DECIMALS)


def interval(correct: int, total: int) -> Interval:
    """The 95 % Wilson interval, rounded."""
    low, high = wilson_interval(correct, total)
    return Interval(low=round(low, DECIMALS), high=round(high, DECIMALS))


def evidence_bytes(evidence: Evidence) -> bytes:
    """Canonical JSON."""
    return canonical_json(_canonical(evidence))


def _canonical(evidence: Evidence) -> dict[str, Any]:
    """Its JSON value; what the format got later is left out where there is nothing to say, so that bytes stay equal."""
    value = evidence.model_dump(mode="json")
    if evidence.repeats == 1:
        del value["repeats"], value["raw_error"], value["patched_error"]
        for each in value["questions"]:
            del each["repeat"]
    later = {"unverified", "calibration", "tokenizer_sha256", "fold"}
    return {name: each for name, each in value.items() if each or name not in later}


def write_evidence(path: Path, evidence: Evidence) -> None:
    """Write evidence; a reader sees all of it or none."""
    write_atomic(path, evidence_bytes(evidence))


def read_evidence(path: Path) -> Evidence:
    """Read evidence and recompute all of its totals.

    Raises:
        InputError: the file is missing or is no evidence.
        CheckFailedError: it contradicts itself, or its totals do not follow from its questions.
    """
    try:
        return load_json_document(path, Evidence, "evidence", LARGEST_EVIDENCE)
    except (InputError, ValidationError) as error:
        if told := mistaken(path, EVIDENCE):
            raise InputError(told) from None
        if isinstance(error, InputError):
            raise
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "value_error":
            raise CheckFailedError(f"{path}: this evidence does not add up: {where + ': ' if where else ''}{text}") from None
        remedy = "" if kind_of(path) else f"; {KINDS[EVIDENCE].found}"
        raise InputError(f"{path}: no evidence: {where}: {text}{remedy}") from None


def require_whole(evidence: Evidence, name: str) -> None:
    """Raise CheckFailedError for a limited run: it may show that things work, and nothing about the model."""
    if evidence.fold:
        raise CheckFailedError(
            f"{name} is only {evidence.fold.name} of an exam ({counted(evidence.asked, 'question')}); "
            "join all folds with `moe-release cross-fit`, which gives their score"
        )
    if evidence.partial:
        raise CheckFailedError(f"{name} is partial ({counted(evidence.total, 'question')}); run it without a limit")


def require_complete(evidence: Evidence, protocol: Protocol, name: str) -> None:
    """Raise CheckFailedError unless a run answers all questions of the protocol that it followed, put as the protocol says.

    Evidence adds up by itself also when answers were left out of it, the wrong ones say; only the protocol knows how many there
    must be.
    """
    require_whole(evidence, name)
    if evidence.protocol_digest != (digest := protocol_digest(protocol)):
        raise CheckFailedError(
            f"{name} followed {evidence.protocol} ({evidence.protocol_digest[:12]}), not {protocol.name} ({digest[:12]}); "
            f"evaluate it under the same protocol"
        )
    data = protocol.data
    pairs: dict[str, tuple[Any, Any]] = {
        "questions": (evidence.asked, data.questions),
        "options": (len(evidence.questions[0].option_order), len(data.letters)),
    }
    if data.question_digests is not None:
        pairs["questions_digest"] = (evidence.questions_digest, data.question_digests)
    pairs |= {field: (getattr(evidence, field), value) for field, value in repeated_from(protocol).items()}
    if wrong := next((field for field, (found, wanted) in pairs.items() if found != wanted), None):
        found, wanted = pairs[wrong]
        raise CheckFailedError(f"{name} is not the exam of {protocol.name}: {wrong} is {found}, the protocol has {wanted}")


def repeated_from(protocol: Protocol) -> dict[str, Any]:
    """What evidence repeats of its protocol, beside name and digest."""
    patch = protocol.patch
    return {
        "lm_eval": protocol.lm_eval,
        "task": protocol.task.name,
        "task_version": protocol.task.version,
        "metric": protocol.task.metric,
        "filter": protocol.task.filter,
        "data_sha256": protocol.data.sha256,
        "patch_method": patch.method if patch else None,
        "patch_outcomes": patch.outcomes if patch else (),
        "repeats": protocol.repeats,
    }


def evidence_digest(evidence: Evidence) -> str:
    """SHA-256 of the canonical form, hex."""
    return digest_of(_canonical(evidence))
