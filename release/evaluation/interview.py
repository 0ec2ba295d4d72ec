"""Putting the questions: each one until it is answered or its attempts are used up, each reply into the ledger first."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pruner.calibration import question_digest
from pruner.errors import CheckFailedError
from pruner.progress import Advance, Progress
from pruner.wording import counted
from release.evaluation.client import Message, chat_message, post, prompt_digest
from release.evaluation.data import Question
from release.evaluation.evidence import Answered, Patched
from release.evaluation.harness import Examination, Request, Scored
from release.evaluation.ledger import Kind, Ledger, Reply
from release.evaluation.outcomes import Outcome, classify, is_looping
from release.evaluation.patch import ask_patch, patched_letter
from release.evaluation.pool import Server, ServerPool
from release.evaluation.protocol import Patch, Protocol

Asked = tuple[str, int]
"""One asking of a question: the question's digest, and which repeat it is."""

GRACE_SECONDS = 2.0
"""How long a process whose connection broke may take to be seen dead."""


class Interview:
    """Running servers, a ledger, and the questions between them.

    Args:
        protocol: how to ask.
        pool: the servers.
        ledger: gets every reply.
        total: questions to ask.
        gated: how many questions the gates' shares are of, which is the whole exam also for a fold of it; None for a smoke
            test, which goes on whatever fails.
    """

    def __init__(self, protocol: Protocol, pool: ServerPool, ledger: Ledger, total: int, gated: int | None) -> None:
        self._protocol = protocol
        self._pool = pool
        self._ledger = ledger
        self._total = total
        self._answers = total * protocol.repeats
        self._gated = None if gated is None else gated * protocol.repeats
        self._failed = 0
        self._counting = threading.Lock()

    def ask_all(self, examination: Examination, progress: Progress) -> dict[Asked, Scored]:
        """Ask the first `total` questions of the data set that have no usable reply yet, and let lm-eval score all replies.

        With repeats lm-eval scores one repeat after the other, as if each were a run of its own.
        """
        times = f" {self._protocol.repeats} times" if self._protocol.repeats > 1 else ""
        found: dict[Asked, Scored] = {}
        with progress.task(f"asking {counted(self._total, 'question')}{times}", self._answers) as advance:
            for repeat in range(self._protocol.repeats):
                scored = examination.run(partial(self._contents, repeat, advance), self._total)
                found |= {(question_digest(each.question), repeat): each for each in scored}
        return found

    def answer_all(
        self, found: Mapping[Asked, Scored], questions: Mapping[str, Question], progress: Progress
    ) -> list[Answered]:
        """Classify every reply, patch those whose outcome the protocol names, and give the evidence's rows.

        A question's repeats stand together, and the questions in the data set's order.
        """
        patch, loop, budget = self._protocol.patch, self._protocol.gates.loop, self._protocol.server.reasoning_budget
        outcomes = {asked: classify(self._raw(asked), self._letter(each), loop, budget) for asked, each in found.items()}
        wanted = [asked for asked, outcome in outcomes.items() if patch and outcome.name in patch.outcomes]
        patched: dict[Asked, Patched] = {}
        if patch and wanted:
            with progress.task(f"patching {counted(len(wanted), 'question')}", len(wanted)) as advance:
                ask = partial(self._patched, patch, found, advance)
                patched = dict(zip(wanted, self._pool.map(ask, wanted), strict=True))
        digests, repeats = dict.fromkeys(digest for digest, _ in found), range(self._protocol.repeats)
        return [
            self._row(questions[asked[0]], asked, found[asked], outcomes[asked], patched.get(asked))
            for asked in itertools.product(digests, repeats)
        ]

    def _contents(self, repeat: int, advance: Advance, requests: Sequence[Request]) -> list[str]:
        return self._pool.map(partial(self._content, repeat, advance), requests)

    def _content(self, repeat: int, advance: Advance, server: Server, request: Request) -> str:
        """What lm-eval scores: the reply's content, and nothing where there is no reply."""
        asked = question_digest(request.question), repeat
        reply = self._attempts(server, "raw", asked, request.messages, partial(self._ask, server, asked, request))
        with self._counting:
            advance(1)
            self._failed += reply.failed
            failed = self._failed
        limit = self._protocol.gates.empty_or_failed
        if self._gated is not None and failed > limit * self._gated:
            raise CheckFailedError(
                f"stopped: {failed} of {self._gated} questions failed, the limit of protocol {self._protocol.name} is "
                f"{limit:.1%}; last: {reply.error}"
            )
        return "" if reply.failed else reply.content or ""

    def _attempts(
        self,
        server: Server,
        kind: Kind,
        asked: Asked,
        messages: str,
        ask: Callable[[int], Reply],
        continues: str | None = None,
    ) -> Reply:
        """The ledger's reply if it can be used, else a new one, asked again as often as the protocol allows.

        A server of ours answers anew what one elsewhere has answered, of which nobody knows the model; and a patch is made anew
        when the reply that it `continues` was replaced.
        """
        reply = self._ledger.last(kind, *asked)
        if reply and reply.prompt != prompt_digest(messages):
            raise CheckFailedError(f"question {asked[0][:12]}: the ledger has a reply to another prompt; move the ledger away")
        if reply and not reply.failed and reply.elsewhere <= server.elsewhere and reply.continues == continues:
            return reply
        first = reply.attempt + 1 if reply else 1
        for attempt in range(first, first + 1 + self._protocol.limits.retries):
            broken = reply is not None and reply.failed and reply.status is None
            server.revive(GRACE_SECONDS if broken and attempt > first else 0)
            reply = ask(attempt)
            if reply.failed:
                self._pool.go_on()  # a reply that we broke off ourselves is no failure
            self._ledger.append(reply)
            if not reply.failed:
                break
        assert reply is not None  # noqa: S101  # for the type checker: the range is not empty
        return reply

    def _ask(self, server: Server, asked: Asked, request: Request, attempt: int) -> Reply:
        seed = self._protocol.request_seed(*asked)
        messages = json.loads(request.messages)
        body: dict[str, Any] = {**request.fields, "messages": messages, "model": server.alias, "seed": seed}
        url = f"{server.url}/v1/chat/completions"
        answer = post(server.client, url, body, seconds=self._protocol.limits.request_seconds)
        message = Message(error=answer.error) if answer.error else chat_message(answer.body, server.alias)
        return Reply(
            kind="raw",
            question=asked[0],
            repeat=asked[1],
            prompt=prompt_digest(request.messages),
            attempt=attempt,
            seed=seed,
            status=answer.status,
            text=answer.text,
            seconds=answer.seconds,
            server=server.number,
            elsewhere=server.elsewhere,
            **message.fields(),
        )

    def _raw(self, asked: Asked) -> Reply:
        reply = self._ledger.last("raw", *asked)
        assert reply is not None  # noqa: S101  # lm-eval has scored it
        return reply

    def _letter(self, scored: Scored) -> str | None:
        """The letter that the protocol's filter found; lm-eval's metric must agree that it is the right or a wrong one."""
        letter = scored.filtered.strip().strip("().").upper()
        found = letter if len(letter) == 1 and letter in self._protocol.data.letters else None
        if scored.correct != (found is not None and found == scored.target.strip("()")):
            raise CheckFailedError(
                f"question {question_digest(scored.question)[:12]}: lm-eval's metric says {scored.correct}, but its filter "
                f"found {scored.filtered!r} where {scored.target!r} is right; metric and filter do not fit together"
            )
        return found

    def _patched(self, patch: Patch, scored: Mapping[Asked, Scored], advance: Advance, server: Server, asked: Asked) -> Patched:
        messages, target = scored[asked].messages, scored[asked].target.strip("()")
        bad = self._raw(asked)
        ask = partial(ask_patch, server, self._protocol, patch, messages, bad)
        reply = self._attempts(server, "patch", asked, messages, ask, continues=bad.digest())
        letter = patched_letter(patch, reply, self._protocol.data.letters)
        with self._counting:
            advance(1)
        return Patched(letter=letter, correct=letter == target, reply_digest=reply.digest())

    def _row(self, question: Question, asked: Asked, scored: Scored, outcome: Outcome, patched: Patched | None) -> Answered:
        reply = self._raw(asked)
        return Answered(
            id=question.id,
            repeat=asked[1],
            question_digest=question.digest,
            prompt_digest=reply.prompt,
            option_order=question.order,
            target=scored.target.strip("()"),
            outcome=outcome.name,
            cause=outcome.cause,
            looping=is_looping(reply, self._protocol.gates.loop),
            raw_letter=self._letter(scored),
            raw_correct=scored.correct,
            finish_reason=reply.finish_reason,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            reply_digest=reply.digest(),
            patched=patched,
        )
