"""Two runs side by side, question by question, and what the difference is worth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pruner.errors import CheckFailedError, printable
from release.documents import Document
from release.evaluation.evidence import DECIMALS, Evidence, by_question, require_whole
from release.evaluation.lm_eval_run import LmEvalRun
from release.evaluation.protocol import Protocol, canonical_protocol
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
        discordance: without repeats, the share of questions that only one of two such systems answers correctly: what is
            expected, or what is seen where that is more.
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
    discordance: float | None
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
        discordance, detectable: of the patched scores.
        differing: what else differs between the runs, each with both values, and may explain a difference.
        words: the finding on the patched scores, in one line.
    """

    a: str
    b: str
    protocol_digest: str
    raw: PairedTest
    patched: PairedTest
    discordance: float | None
    detectable: float | None
    differing: tuple[str, ...]
    words: str


Run = Evidence | LmEvalRun


def compare(a: Run, b: Run, *, discordance: float = 0.1) -> Comparison:
    """Compare two runs on the same questions, paired by the questions' digests.

    Args:
        a: the reference, for instance the base.
        b: the other run.
        discordance: the least that is expected, see `PairedTest`.

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
        discordance=patched.discordance,
        detectable=patched.detectable,
        differing=tuple(_differing(*_told_by_both(_circumstances(a), _circumstances(b)))),
        words=in_words(patched),
    )


def contrast(a: Run, b: Run, protocols: Mapping[str, Protocol] = MappingProxyType({})) -> Contrast:
    """What differs between two runs that follow different protocols, as far as it is told; their scores are not tested.

    Args:
        a: one run.
        b: the other.
        protocols: by digest; evidence only has the digest, and which settings differ stands in them.
    """
    differing = tuple(_differing(_conditions(a, protocols), _conditions(b, protocols)))
    unknown = [_protocol(run) for run in (a, b) if isinstance(run, Evidence) and run.protocol_digest not in protocols]
    differing += tuple(
        f"settings of {name} ({digest[:12]}): not known; name its file with --protocol"
        for name, digest in dict.fromkeys(unknown)
    )
    words = f"no test, the protocols differ: {'; '.join(differing)}"
    return Contrast(a=title(a), b=title(b), differing=differing, words=words)


def circumstances_in_words(a: Evidence, b: Evidence) -> str:
    """What may explain a difference of two runs under one protocol, beside their quants; empty where all is the same."""
    names = {"toolchain_commit": "llama.cpp", "chat_template_sha256": "chat template", "tokenizer_sha256": "tokenizer"}
    pairs = {word: (getattr(a, name), getattr(b, name)) for name, word in names.items()}
    words = [f"{word} {one[:12]} and {other[:12]}" for word, (one, other) in pairs.items() if one and other and one != other]
    if bool(a.unverified) != bool(b.unverified):
        words.append("one of the two from servers elsewhere, unverified")
    return ", ".join(words)


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
    shown = printable(run.model_file if isinstance(run, Evidence) else run.model)
    return f"{shown} ({run.model_sha256[:12]})" if isinstance(run, Evidence) else f"{shown} (lm-eval)"


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
    expected: float | None = None
    if repeats == 1:
        expected = round(max(discordance, (only_a + only_b) / len(a)), DECIMALS)
        p, detectable = mcnemar_exact(only_a, only_b), minimum_detectable_difference(len(a), expected)
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
        discordance=expected,
        detectable=None if detectable is None else round(detectable, DECIMALS),
    )


def _require_comparable(a: Run, b: Run) -> None:
    names = f"{title(a)} and {title(b)}"
    if not comparable(a, b):
        (name_a, digest_a), (name_b, digest_b) = _protocol(a), _protocol(b)
        raise CheckFailedError(
            f"{names} follow different protocols, {name_a} ({digest_a[:12]}) and {name_b} ({digest_b[:12]}); run both under one"
        )
    for run in (a, b):
        if isinstance(run, Evidence) and run.fold:
            require_whole(run, title(run))
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
    told |= {"tokenizer_sha256": run.tokenizer_sha256} if run.tokenizer_sha256 else {}
    return told | {"unverified": ", ".join(run.unverified) or "nothing"}


def _told_by_both(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What older evidence does not tell is no difference."""
    return {name: a[name] for name in a if name in b}, {name: b[name] for name in a if name in b}


def _conditions(run: Run, protocols: Mapping[str, Protocol]) -> dict[str, Any]:
    """All that is told about how a run was made, but for its model: by itself and by its protocol."""
    name, digest = _protocol(run)
    if isinstance(run, LmEvalRun):
        settings = {**run.settings, "lm_eval": run.settings["lm_eval_version"]}
        told = {key: value for key, value in settings.items() if key not in {"lm_eval_version", "task_hashes"}}
    else:
        names = ("lm_eval", "task", "task_version", "metric", "filter", "data_sha256", "patch_method", "partial", "repeats")
        told = {key: getattr(run, key) for key in names} | _circumstances(run)
        told |= _settings(protocols[digest]) if digest in protocols else {}
    return {"protocol": f"{name} {digest[:12]}", **told, "questions": run.total}


def _settings(protocol: Protocol) -> dict[str, Any]:
    """Each setting of a protocol by its path, such as `sampling.min_p`; but for what evidence tells itself."""
    found: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for name, each in value.items():
                walk(each, f"{path}.{name}" if path else name)
        else:
            found[path] = value

    walk(canonical_protocol(protocol), "")
    told = ("lm_eval", "task.", "data.sha256", "patch.method", "repeats", "schema")
    return {path: value for path, value in found.items() if not path.startswith(told)}


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterable[str]:
    for name in dict.fromkeys([*a, *b]):
        if a.get(name) != b.get(name):
            yield f"{name}: {a.get(name, 'not told')} and {b.get(name, 'not told')}"
