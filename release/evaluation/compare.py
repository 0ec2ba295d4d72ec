"""Two runs side by side, question by question, and what the difference is worth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pruner.errors import CheckFailedError
from release.documents import Document
from release.evaluation.evidence import DECIMALS, Evidence, by_question
from release.evaluation.lm_eval_run import LmEvalRun
from release.evaluation.stats import (
    clustered_difference,
    mcnemar_exact,
    minimum_detectable_difference,
    paired_randomization,
)

LEVEL = 0.05


class PairedTest(Document):
    """An exact paired test of two runs on the same questions: McNemar's, with repeats Fisher's randomization of questions.

    Attributes:
        total: answers of each run, which are questions times repeats.
        correct_a, correct_b: scores.
        only_a, only_b: questions that only one of the two answers correctly, with repeats more often correctly than the other.
        p: two-sided p-value.
        repeats: how often each question was asked.
        error: with repeats, the standard error of the difference of the mean scores, clustered by question.
        detectable: smallest difference of the scores that the test shows (power 80 %), as a share of 1, or None.
    """

    total: int
    correct_a: int
    correct_b: int
    only_a: int
    only_b: int
    p: float
    repeats: int
    error: float | None
    detectable: float | None

    @property
    def difference(self) -> int:
        """Correct answers of b beyond those of a."""
        return self.correct_b - self.correct_a


class Contrast(Document):
    """Two runs under different protocols: what differs, and no test."""

    a: str
    b: str
    differing: tuple[str, ...]
    words: str


class Comparison(Document):
    """Two runs under one protocol.

    Attributes:
        raw, patched: the tests before and after the patch.
        discordance: share of questions that two systems are expected to answer differently, for `detectable` without repeats.
        detectable: of the patched scores.
        differing: what else differs between the runs, each with both values, and may explain a difference.
        words: the finding on the patched scores, in one line.
    """

    a: str
    b: str
    protocol_digest: str
    raw: PairedTest
    patched: PairedTest
    discordance: float
    detectable: float | None
    differing: tuple[str, ...]
    words: str


Run = Evidence | LmEvalRun


def compare(a: Run, b: Run, *, discordance: float = 0.1) -> Comparison:
    """Compare two runs on the same questions, paired by the questions' digests.

    Args:
        a: the reference, for instance the base.
        b: the other run.
        discordance: see `Comparison`.

    Raises:
        CheckFailedError: the runs follow different protocols or answered different questions, or one of them is partial.
    """
    _require_comparable(a, b)
    raw = _paired(_by_question(a, raw=True), _by_question(b, raw=True), discordance)
    patched = _paired(_by_question(a, raw=False), _by_question(b, raw=False), discordance)
    return Comparison(
        a=title(a),
        b=title(b),
        protocol_digest=_protocol(a)[1],
        raw=raw,
        patched=patched,
        discordance=discordance,
        detectable=patched.detectable,
        differing=tuple(_differing(_circumstances(a), _circumstances(b))),
        words=in_words(patched),
    )


def contrast(a: Run, b: Run) -> Contrast:
    """What differs between two runs that follow different protocols, as far as they tell; their scores are not tested."""
    differing = tuple(_differing(_conditions(a), _conditions(b)))
    words = f"no test, the protocols differ: {'; '.join(differing)}"
    return Contrast(a=title(a), b=title(b), differing=differing, words=words)


def comparable(a: Run, b: Run) -> bool:
    """Whether two runs follow the same protocol."""
    return _protocol(a)[1] == _protocol(b)[1]


def in_words(test: PairedTest) -> str:
    """For instance: no detectable difference (3 of 198; p = 0.25; 198 questions can show 6.3 pp)."""
    questions = f"{test.total // test.repeats} questions" + (f" asked {test.repeats} times" if test.repeats > 1 else "")
    shown = "none" if test.detectable is None else f"{100 * test.detectable:.1f} pp"
    size = f"{abs(test.difference)} of {test.total}"
    if test.error is not None:
        size += f" = {100 * abs(test.difference) / test.total:.1f} pp, standard error {100 * test.error:.1f} pp"
    numbers = f"({size}; p = {_p(test.p)}; {questions} can show {shown})"
    if test.p >= LEVEL:
        return f"no detectable difference {numbers}"
    return f"{'better' if test.difference > 0 else 'worse'} {numbers}"


def _p(value: float) -> str:
    smallest = 0.001
    return f"{value:.2g}" if value >= smallest else f"{value:.0e}"


def title(run: Run) -> str:
    """What a run is called: its model, and of evidence the model's digest."""
    return f"{run.model_file} ({run.model_sha256[:12]})" if isinstance(run, Evidence) else f"{run.model} (lm-eval)"


def _protocol(run: Run) -> tuple[str, str]:
    """Name and digest of what a run follows; of a foreign one, of its settings."""
    if isinstance(run, Evidence):
        return run.protocol, run.protocol_digest
    return f"lm-eval's settings for {run.settings['task']}", run.settings_digest


def _by_question(run: Run, *, raw: bool) -> dict[str, list[bool]]:
    if isinstance(run, LmEvalRun):
        return {each.doc_hash: [each.correct] for each in run.questions}
    return by_question(run.questions, raw=raw)


def _prompts(run: Run) -> dict[tuple[str, int], str]:
    if isinstance(run, LmEvalRun):
        return {(each.doc_hash, 0): each.prompt_hash for each in run.questions}
    return {(each.question_digest, each.repeat): each.prompt_digest for each in run.questions}


def _paired(a: Mapping[str, Sequence[bool]], b: Mapping[str, Sequence[bool]], discordance: float) -> PairedTest:
    repeats = len(next(iter(a.values())))
    differences = [sum(b[question]) - sum(a[question]) for question in a]
    only_a, only_b = sum(each < 0 for each in differences), sum(each > 0 for each in differences)
    error: float | None = None
    if repeats == 1:
        p, detectable = mcnemar_exact(only_a, only_b), minimum_detectable_difference(len(a), discordance)
    else:
        p = paired_randomization(differences)
        error, detectable = clustered_difference([each / repeats for each in differences])
    return PairedTest(
        total=len(a) * repeats,
        correct_a=sum(map(sum, a.values())),
        correct_b=sum(map(sum, b.values())),
        only_a=only_a,
        only_b=only_b,
        p=p,
        repeats=repeats,
        error=None if error is None else round(error, DECIMALS),
        detectable=None if detectable is None else round(detectable, DECIMALS),
    )


def _require_comparable(a: Run, b: Run) -> None:
    names = f"{title(a)} and {title(b)}"
    if not comparable(a, b):
        (name_a, digest_a), (name_b, digest_b) = _protocol(a), _protocol(b)
        raise CheckFailedError(
            f"{names} follow different protocols, {name_a} ({digest_a[:12]}) and {name_b} ({digest_b[:12]}); run both under one"
        )
    if a.partial or b.partial:
        raise CheckFailedError(f"{names}: a partial run cannot be compared; run it without a limit")
    if _prompts(a) != _prompts(b):
        raise CheckFailedError(f"{names} answered different questions or prompts; their answers cannot be paired")


def _circumstances(run: Run) -> dict[str, Any]:
    """What may differ under one protocol."""
    if isinstance(run, LmEvalRun):
        return {}
    names = ("toolchain_commit", "chat_template_sha256", "quant")
    told = {name: getattr(run, name) for name in names}
    return told | {"unverified": ", ".join(run.unverified) or "nothing"}


def _conditions(run: Run) -> dict[str, Any]:
    """All that a run tells about how it was made, but for its model."""
    name, digest = _protocol(run)
    if isinstance(run, LmEvalRun):
        settings = {**run.settings, "lm_eval": run.settings["lm_eval_version"]}
        told = {key: value for key, value in settings.items() if key not in {"lm_eval_version", "task_hashes"}}
    else:
        names = ("lm_eval", "task", "task_version", "metric", "filter", "data_sha256", "patch_method", "partial", "repeats")
        told = {key: getattr(run, key) for key in names} | _circumstances(run)
    return {"protocol": f"{name} {digest[:12]}", **told, "questions": run.total}


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterable[str]:
    for name in dict.fromkeys([*a, *b]):
        if a.get(name) != b.get(name):
            yield f"{name}: {a.get(name, 'not told')} and {b.get(name, 'not told')}"
