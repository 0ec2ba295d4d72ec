"""One evaluation of one quant, from the first question to the evidence; it may be killed at any instant and run again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pruner.calibration import question_digest
from pruner.errors import CheckFailedError, InputError, MoeReleaseError
from pruner.exclusive import exclusive
from pruner.progress import SILENT, Progress
from pruner.wording import counted
from release.evaluation.data import Question, Row, digest_of_questions, load_rows, questions_of
from release.evaluation.differences import differing_evidence
from release.evaluation.evidence import (
    Answered,
    Calibration,
    Evidence,
    evidence_bytes,
    read_evidence,
    repeated_from,
    totals,
    write_evidence,
)
from release.evaluation.folds import Fold, fold_to_ask
from release.evaluation.gates import require_gates
from release.evaluation.gpus import gpu_shares, nvidia_gpus
from release.evaluation.harness import Examination
from release.evaluation.interview import Interview
from release.evaluation.ledger import Header, Kind, Ledger
from release.evaluation.pool import Server, ServerPool
from release.evaluation.protocol import Protocol, protocol_digest
from release.evaluation.remote import UNSEEN, RemoteServer, check_url, identity_of
from release.evaluation.run_record import write_run_record
from release.evaluation.server import LlamaServer
from release.evaluation.settings import SHORTEST_COMMIT, build_commit, template_digest
from release.evaluation.timing import timing_of, write_timing
from release.evaluation.tokenizer import require_tokenizer


def evaluate(
    protocol: Protocol,
    *,
    root: Path,
    server_binary: Path,
    toolchain_commit: str,
    model: Path,
    model_sha256: str,
    quant: str,
    folder: Path,
    progress: Progress = SILENT,
    limit: int | None = None,
    servers: int = 1,
    urls: Sequence[str] = (),
    calibration: Sequence[str] | None = None,
    fold: tuple[int, int] | None = None,
    executor: Executor | None = None,
) -> Evidence:
    """Ask every question of the protocol, patch what it names, and write the evidence.

    The ledger in `folder` is continued: finished questions are not asked again, failed ones are.  A rerun ends with the same
    evidence, byte for byte, whatever the number of servers.

    Args:
        protocol: from `load_protocol`.
        root: folder of the manifests; the data set's path is relative to it.
        server_binary: llama-server.
        toolchain_commit: its commit, for the evidence.
        model: the GGUF file.
        model_sha256: its digest.
        quant: its label.
        folder: gets ledger.jsonl, run.json (all that happened on the way), server.log, lm-eval.log, evidence.json and
            timing.json (the seconds of each question).
        progress: shows the questions.
        limit: ask only the first questions; gives evidence.partial.json, marked partial, whatever the gates say of it.
        servers: how many llama-servers to start on this machine.
        urls: servers that run elsewhere, in their place; what cannot be seen of them is named in the evidence.
        calibration: digests of the questions that the model's experts were chosen with, where the release knows them.
        fold: ask only the questions of this fold, index and count, none of which is one of `calibration`; gives evidence of a
            fold, whatever the gates say of it: they hold for all folds together.
        executor: of threads; by default one for each server.

    Raises:
        InputError: the data set, the ledger or a URL cannot be used.
        UnavailableError: the server, lm-eval or a gated data set is missing.
        CheckFailedError: a server, the data set or the tokenizer is not the protocol's, the ledger is another run's, the model
            saw a question of its fold, or a gate is failed.
    """
    exam = _exam(protocol, load_rows(protocol.data, root), limit, fold, calibration)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, alias = require_tokenizer(protocol, model), f"{quant}-{model_sha256[:12]}"
    made = _remote(protocol, model, urls) if urls else _local(protocol, server_binary, model, alias, folder, servers)
    run = _Run(protocol, exam, ServerPool(made, executor), folder, progress)
    header = Header(protocol=protocol_digest(protocol), model=model_sha256, toolchain=toolchain_commit)
    with exclusive(folder / ".lock", f"{folder}: another run works here; wait for its end or choose another work folder"):
        ledger, answered = _asked(run, header, remote=bool(urls))
        write_run_record(folder / "run.json", ledger, made, tokenizer)
    about = {"model_file": model.name, "model_sha256": model_sha256, "quant": quant, "tokenizer_sha256": tokenizer}
    return _scored(run, ledger, answered, {**about, "calibration": _calibration(calibration, exam.compared)})


@dataclass(frozen=True)
class _Exam:
    """What is asked: the first `total` of `rows`, which are the data set's, or those of one fold.

    `compared` are the digests of the questions that the calibration set is compared with: of a fold the whole exam's.
    """

    rows: list[Row]
    total: int
    compared: list[str]
    fold: Fold | None

    @property
    def partial(self) -> bool:
        """Whether this is not the whole exam."""
        return self.fold is not None or self.total < len(self.rows)

    @property
    def gated(self) -> int | None:
        """Of how many questions the gates' shares are; of a limited run they are none."""
        if self.fold:
            return self.fold.exam
        return None if self.partial else self.total


@dataclass(frozen=True)
class _Run:
    """What asking and scoring need."""

    protocol: Protocol
    exam: _Exam
    pool: ServerPool
    folder: Path
    progress: Progress


def _exam(
    protocol: Protocol,
    rows: list[Row],
    limit: int | None,
    fold: tuple[int, int] | None,
    calibration: Sequence[str] | None,
) -> _Exam:
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit}: ask at least one question, or leave it out")
    questions = questions_of(protocol.data, rows)
    digests = [each.digest for each in questions]
    if fold is None:
        total = min(limit or len(rows), len(rows))
        return _Exam(rows, total, digests[:total], None)
    found = fold_to_ask(questions, fold, calibration)
    own = [row for row, digest in zip(rows, digests, strict=True) if found.holds(digest)]
    return _Exam(own, len(own), digests, found)


def _asked(run: _Run, header: Header, *, remote: bool) -> tuple[Ledger, tuple[Answered, ...]]:
    """Ask and patch; the ledger is closed then, and its replies stay readable."""
    protocol, exam = run.protocol, run.exam
    examination = _examination(protocol, exam.rows, run.folder / "lm-eval.log", run.progress)
    with _opened(run.pool, run.folder, header, remote=remote) as ledger:
        if not remote and (others := sum(reply.elsewhere for reply in ledger.counting())):
            run.progress.note(
                f"{counted(others, 'answer')} in the ledger came from servers elsewhere, whose model nobody saw; "
                "what this run needs of them is asked again here"
            )
        interview = Interview(protocol, run.pool, ledger, exam.total, exam.gated)
        scored = interview.ask_all(examination, run.progress)
        return ledger, tuple(interview.answer_all(scored, _by_digest(protocol, exam.rows), run.progress))


def _scored(run: _Run, ledger: Ledger, answered: tuple[Answered, ...], about: dict[str, Any]) -> Evidence:
    """Score what was answered and write it, as evidence if the run is whole and passes its gates."""
    partial, fold = run.exam.partial, run.exam.fold
    if not partial:
        require_gates(run.protocol, answered)
    about |= {"toolchain_commit": ledger.header.toolchain, "chat_template_sha256": template_digest(run.pool.props)}
    about |= {"unverified": _unverified(ledger, answered), "partial": partial, "fold": fold}
    evidence = _evidence(run.protocol, answered, about)
    path = run.folder / (fold.file if fold else "evidence.partial.json" if partial else "evidence.json")
    if not partial:
        _tell_changes(path, evidence, run.progress)
        write_timing(run.folder / "timing.json", timing_of(evidence, ledger.last))
    write_evidence(path, evidence)
    return evidence


def _tell_changes(path: Path, evidence: Evidence, progress: Progress) -> None:
    """Say what is wrong with evidence that stands there already: the ledger gives other evidence, which replaces it."""
    if not path.exists() or path.read_bytes() == evidence_bytes(evidence):
        return
    try:
        what = "; ".join(differing_evidence(read_evidence(path), evidence)) or "other spelling"
    except MoeReleaseError as error:
        what = str(error).removeprefix(f"{path}: ")
    progress.note(f"{path}: is not what the ledger gives and is written anew (there and here): {what}")


@contextmanager
def _opened(pool: ServerPool, folder: Path, header: Header, *, remote: bool) -> Iterator[Ledger]:
    """The ledger, with its servers running.

    A ledger of another run is refused before servers of ours load a model.  What servers elsewhere are built from is only known
    once they answer, and they are asked first.
    """
    with ExitStack() as exits:
        if remote:
            exits.enter_context(pool)
            header = header.model_copy(update={"toolchain": _commit_of(pool, header.toolchain)})
        ledger = exits.enter_context(closing(Ledger(folder / "ledger.jsonl", header)))
        if not remote:
            exits.enter_context(pool)
        yield ledger


def _by_digest(protocol: Protocol, rows: Sequence[Row]) -> dict[str, Question]:
    return {each.digest: each for each in questions_of(protocol.data, rows)}


def _local(protocol: Protocol, binary: Path, model: Path, alias: str, folder: Path, count: int) -> list[Server]:
    """Servers of this machine, each with its own log and its share of the GPUs."""
    gpus = nvidia_gpus() if count > 1 and protocol.server.gpu_layers else []
    return [
        LlamaServer(
            binary=binary,
            model=model,
            alias=alias,
            protocol=protocol,
            log=folder / ("server.log" if number == 0 else f"server-{number + 1}.log"),
            number=number,
            environment=environment,
        )
        for number, environment in enumerate(gpu_shares(os.environ, count, gpus))
    ]


def _remote(protocol: Protocol, model: Path, urls: Sequence[str]) -> list[Server]:
    if len({check_url(url) for url in urls}) != len(urls):
        raise InputError("--server: the same server is named twice; a server answers one question at a time")
    identity = identity_of(model)
    return [RemoteServer(url, protocol=protocol, identity=identity, number=number) for number, url in enumerate(urls)]


def _commit_of(pool: ServerPool, ours: str) -> str:
    """The commit that servers elsewhere were built from, by its full name where it is the one of our own toolchain."""
    commit = build_commit(pool.props)
    return ours if len(commit) >= SHORTEST_COMMIT and ours.startswith(commit) else commit


def _unverified(ledger: Ledger, answered: Sequence[Answered]) -> tuple[str, ...]:
    """What nobody could check of the servers that gave the replies that count, in this run or an earlier one."""
    counting = [ledger.last(kind, each.question_digest, each.repeat) for each in answered for kind in get_args(Kind)]
    return UNSEEN if any(reply.elsewhere for reply in counting if reply) else ()


def _calibration(digests: Sequence[str] | None, compared: Sequence[str]) -> Calibration | None:
    if digests is None:
        return None
    from pruner.calibration import overlapping_questions

    overlap = overlapping_questions(digests, compared)
    return Calibration(questions=len(digests), questions_digest=digest_of_questions(digests), overlap=overlap)


def _evidence(protocol: Protocol, answered: tuple[Answered, ...], about: dict[str, Any]) -> Evidence:
    """The run, scored: what it is about, its protocol, its totals and its questions."""
    return Evidence(
        protocol=protocol.name,
        protocol_digest=protocol_digest(protocol),
        questions_digest=digest_of_questions(list(dict.fromkeys(each.question_digest for each in answered))),
        questions=answered,
        **repeated_from(protocol),
        **about,
        **totals(answered),
    )


def _examination(protocol: Protocol, rows: list[Row], log: Path, progress: Progress) -> Examination:
    """lm-eval's task, with its targets checked before anything is asked."""
    with progress.task("loading lm-eval", None):
        examination = Examination(protocol, rows, log)
        _check_targets(examination.targets(), questions_of(protocol.data, rows))
    return examination


def _check_targets(targets: dict[str, str], questions: Sequence[Question]) -> None:
    """lm-eval's shuffle must be the protocol's, or the evidence would tell a wrong option order."""
    found = {question_digest(text): letter for text, letter in targets.items()}
    for question in questions:
        if question.distinct and found.get(question.digest) != question.target:
            raise CheckFailedError(
                f"question {question.id}: lm-eval puts the right option at {found.get(question.digest)}, the protocol's option "
                f"order at {question.target}; check option_columns"
            )
