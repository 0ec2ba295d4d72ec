"""The ledger of a run: every reply, whole, one JSON line each, on disk before its server is asked the next question.

A ledger stays in the work folder and is never published: a reply, and above all a thought, quotes the question, and the
questions of a gated data set may not be shown.  Evidence has digests in place of texts, and `release.stages.publication` knows
no ledger.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from pruner.errors import CheckFailedError, InputError
from pruner.files import digest_of, require_whole_text, write_atomic, write_errors
from release.documents import Document

Kind = Literal["raw", "patch"]
Elapsed = Annotated[float, Field(strict=True, ge=0, lt=2**31)]
"""Seconds from request to reply."""


class Header(Document):
    """First line of a ledger: what its replies belong to."""

    ledger: Literal["moe-release/ledger/v1"] = "moe-release/ledger/v1"
    protocol: str
    model: str
    toolchain: str


class Reply(Document):
    """One answer of the server, or the reason why there is none.

    Attributes:
        kind: the question itself, or its patch.
        question: digest of the question's text.
        repeat: which of the protocol's repeats, from 0.
        prompt: digest of the messages that were sent.
        attempt: 1 for the first time that this question was asked, counted over all runs.
        seed: of the request.
        status: HTTP status; None when no reply arrived.
        error: why the reply cannot be used; None for one that can.
        text: the reply's body as it arrived.
        content, reasoning_content, finish_reason, prompt_tokens, completion_tokens, timings: the body, parsed.
        seconds: from request to reply.
        server: number of the server that was asked; replies do not depend on it.
        continues: of a patch, the digest of the reply that needed it; to another one, later, it is no answer.
        elsewhere: that server was not ours, and nobody could check which file it had loaded.
    """

    kind: Kind
    question: str
    repeat: int = 0
    prompt: str
    attempt: int
    seed: int
    status: int | None
    error: str | None
    content: str | None = None
    reasoning_content: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    timings: dict[str, Any] = Field(default_factory=dict)
    text: str = ""
    seconds: Elapsed
    server: int = 0
    elsewhere: bool = False
    continues: str | None = None

    @property
    def failed(self) -> bool:
        """Whether the question is still open."""
        return self.error is not None

    def digest(self) -> str:
        """SHA-256 of what the model said: equal for equal replies, whatever the clock or the attempt."""
        said = ("content", "reasoning_content", "finish_reason", "prompt_tokens", "completion_tokens", "status", "failed")
        return digest_of({name: getattr(self, name) for name in said})


class Ledger:
    """An append-only file of replies; the last reply to a question counts.

    A torn last line, left by a killed run, is dropped: its question counts as not asked.

    Raises:
        CheckFailedError: the file belongs to another protocol, model or toolchain.
        InputError: the file is damaged elsewhere than in its last line.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.header = header
        self._path = path
        self._replies: dict[tuple[Kind, str, int], Reply] = {}
        self._lines: list[Reply] = []
        self._writing = threading.Lock()
        kept = self._read(header) if path.exists() else b""
        if not kept:
            kept = _line(header.model_dump(mode="json"))
            write_atomic(path, kept)
        self._file = path.open("r+b")
        self._file.truncate(len(kept))
        self._file.seek(0, os.SEEK_END)

    def __iter__(self) -> Iterator[Reply]:
        """Every reply in the order of its arrival, also those that a later attempt replaced."""
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def last(self, kind: Kind, question: str, repeat: int = 0) -> Reply | None:
        """The reply that counts, or None when the question was never asked."""
        return self._replies.get((kind, question, repeat))

    def counting(self) -> Iterator[Reply]:
        """The replies that count: the last one to each question."""
        return iter(self._replies.values())

    def append(self, reply: Reply) -> None:
        """Write a reply and wait until it is on disk.  Threads may call this: one line is written after the other."""
        with self._writing:
            with write_errors(self._path):
                self._file.write(_line(reply.model_dump(mode="json")))
                self._file.flush()
                os.fsync(self._file.fileno())
            self._remember(reply)

    def close(self) -> None:
        """Close the file; the replies stay readable."""
        self._file.close()

    def _remember(self, reply: Reply) -> None:
        self._lines.append(reply)
        self._replies[reply.kind, reply.question, reply.repeat] = reply

    def _read(self, header: Header) -> bytes:
        """Fill the ledger from its file and return the bytes that are complete lines."""
        content = self._path.read_bytes()
        kept = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(kept.splitlines(), 1):
            try:
                value = json.loads(line)
                require_whole_text(value)  # the other has no digest
                if number == 1:
                    self._check_header(Header.model_validate(value), header)
                else:
                    self._remember(Reply.model_validate(value))
            except (ValueError, ValidationError, RecursionError):
                raise InputError(f"{self._path}:{number}: damaged ledger line; move the file away to ask again") from None
        return kept

    def _check_header(self, found: Header, expected: Header) -> None:
        for name in ("protocol", "model", "toolchain"):
            if getattr(found, name) != getattr(expected, name):
                raise CheckFailedError(
                    f"{self._path}: this ledger belongs to {name} {getattr(found, name)}, the run to "
                    f"{getattr(expected, name)}; choose another work folder or move the ledger away"
                )


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True).encode("ascii") + b"\n"
