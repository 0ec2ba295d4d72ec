"""How a run went: times, attempts and servers, which differ from run to run and so are no evidence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pruner.files import canonical_json, write_atomic
from release.evaluation.ledger import Reply
from release.evaluation.pool import Server


def write_run_record(path: Path, replies: Iterable[Reply], servers: Sequence[Server], tokenizer: str) -> None:
    """Write run.json: the seconds of every reply by its question's digest, what failed on the way, and what each server did.

    It stands beside the evidence, whose bytes hold no clock.  A failed attempt's error may quote the reply, so it is never
    published; the seconds of the replies that count are, by `release.evaluation.timing`.
    """
    write_atomic(path, canonical_json(_record(list(replies), servers, tokenizer)))


def _record(replies: Sequence[Reply], servers: Sequence[Server], tokenizer: str) -> dict[str, Any]:
    return {
        "tokenizer_sha256": tokenizer,
        "replies": len(replies),
        "failed_attempts": [
            {**_asked(reply), "error": reply.error, "server": reply.server} for reply in replies if reply.failed
        ],
        "server_restarts": sum(server.restarts for server in servers),
        "servers": [
            {
                "server": server.number,
                "restarts": server.restarts,
                "replies": sum(reply.server == server.number for reply in replies),
            }
            for server in servers
        ],
        "seconds": round(sum(reply.seconds for reply in replies), 3),
        "questions": [{**_asked(reply), "seconds": round(reply.seconds, 3)} for reply in replies],
    }


def _asked(reply: Reply) -> dict[str, Any]:
    return {"kind": reply.kind, "question": reply.question, "repeat": reply.repeat, "attempt": reply.attempt}
