"""The locked protocol of an evaluation: everything that can move a score, with one digest.

A protocol has no default values: what is not written in its file is an error, so that no part of a score can hide in code.
Only what the format got later may be left out; it then means what protocols meant before, and the digest stays what it was.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pruner.calibration import LETTERS
from pruner.errors import InputError
from pruner.files import digest_of, path_inside, sha256_bytes
from release.documents import Document, load_document
from release.hub_file import RepoFile, with_hub_address
from release.patterns import Revision, Sha256

OutcomeName = Literal["valid", "empty", "truncated", "unparsable", "failed"]
"""What became of a question; see `release.evaluation.outcomes`."""

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Seconds = Annotated[float, Field(gt=0)]
MOST_REPEATS = 100
SEEDS = 2**32 - 1
"""llama-server takes the last 32-bit number as "any seed"."""


class Task(Document):
    """lm-eval's own task, and which of its numbers counts as *the* score."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    version: float
    metric: str
    filter: str


class DataSet(Document):
    """Where the questions stand: a file beside the manifests, or a file of a Hub data set at a pinned revision.

    `path` may be an address on the Hub, `hf://owner/name@revision/path/file`; the digest is that of the single keys.

    `option_columns` are in the order in which the task's own code lists the options before it shuffles them.
    """

    path: str | None = None
    repository: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = None
    revision: Revision | None = None
    config: str | None = None
    file: RepoFile | None = None
    sha256: Sha256
    questions: Count
    question_digests: Sha256 | None = None
    id_column: str
    question_column: str
    option_columns: Annotated[tuple[str, ...], Field(min_length=2, max_length=26)]
    correct_column: str

    @model_validator(mode="before")
    @classmethod
    def _address(cls, value: Any) -> Any:
        return with_hub_address(value, repo="repository")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        hub = (self.repository, self.revision, self.config, self.file)
        if self.path is not None and any(hub):
            raise ValueError("'path' excludes 'repository', 'revision', 'config' and 'file'")
        if self.path is None and not all(hub):
            raise ValueError("give either 'path', or 'repository', 'revision', 'config' and 'file'")
        if self.correct_column not in self.option_columns:
            raise ValueError("'correct_column' must be one of 'option_columns'")
        return self

    @property
    def letters(self) -> str:
        """One capital letter for each option."""
        return LETTERS[: len(self.option_columns)]


class Chat(Document):
    """How a question becomes a prompt; template and tokenizer come with the model, and may be pinned.

    `tokenizer_sha256` is the digest that `release.evaluation.tokenizer` computes of a GGUF; left out, any tokenizer will do.
    """

    template_kwargs: dict[str, bool | int | float | str]
    template_sha256: Sha256 | None
    tokenizer_sha256: Sha256 | None = None


class Server(Document):
    """Settings of llama-server.  One slot and no prompt cache: otherwise replies differ from run to run."""

    context: Count
    slots: Literal[1]
    threads: Count
    gpu_layers: Annotated[int, Field(ge=0)]
    batch: Count
    micro_batch: Count
    flash_attention: Literal["on", "off"]
    cache_type_k: str
    cache_type_v: str
    context_shift: Literal[False]
    prompt_cache: Literal[False]
    cache_ram_mib: Literal[0]
    reasoning_format: Literal["none", "deepseek", "deepseek-legacy", "auto"]
    reasoning_budget: Annotated[int, Field(ge=-1)]
    llama_cpp_commit: Annotated[str, Field(pattern=r"^[0-9a-f]{7,40}$")] | None


class Sampling(Document):
    """Fields of each request, by llama-server's names; the server is also started with them, so that /props can prove them."""

    seed: Annotated[int, Field(ge=0, lt=SEEDS)]
    temperature: Annotated[float, Field(ge=0)]
    dynatemp_range: float
    dynatemp_exponent: float
    top_k: Annotated[int, Field(ge=0)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    min_p: Share
    top_n_sigma: float
    typical_p: Annotated[float, Field(gt=0, le=1)]
    xtc_probability: Share
    xtc_threshold: Share
    repeat_last_n: int
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dry_sequence_breakers: tuple[str, ...]
    mirostat: Literal[0, 1, 2]
    mirostat_tau: float
    mirostat_eta: float
    samplers: tuple[str, ...]


class Limits(Document):
    """Time-outs in seconds, and how often what failed on the way is asked again."""

    start_seconds: Seconds
    request_seconds: Seconds
    retries: Annotated[int, Field(ge=0, le=5)]
    server_restarts: Annotated[int, Field(ge=0)]


class Patch(Document):
    """A second way to an answer, registered in advance: one method, one attempt, only for the named outcomes."""

    method: Literal["prefill-v1", "continue-v1"]
    attempts: Literal[1]
    outcomes: Annotated[tuple[OutcomeName, ...], Field(min_length=1)]
    prefill: str
    max_tokens: Count
    grammar: str | None
    letter_probabilities: Annotated[int, Field(ge=0, le=100)]
    answer_pattern: str
    open_thought: str
    close_thought: str

    @field_validator("outcomes")
    @classmethod
    def _never_valid(cls, value: tuple[OutcomeName, ...]) -> tuple[OutcomeName, ...]:
        if "valid" in value:
            raise ValueError("a patch may not touch a valid answer, right or wrong")
        if len(set(value)) != len(value):
            raise ValueError("an outcome is named twice")
        return value

    @field_validator("answer_pattern")
    @classmethod
    def _one_group(cls, value: str) -> str:
        import re

        try:
            groups = re.compile(value).groups
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"no regular expression: {error}") from None
        if groups != 1:
            raise ValueError("must have exactly one group: the letter")
        return value


class NGrams(Document):
    """Repetition inside a text: among `words` words in a row, `share` of all runs of `length` words or more stood before."""

    length: Annotated[int, Field(ge=1, le=64)]
    words: Annotated[int, Field(ge=1, le=10_000)]
    share: Annotated[float, Field(gt=0, le=1)]

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.length > self.words:
            raise ValueError(f"length {self.length} is more than all of {self.words} words")
        return self


class Loop(Document):
    """What counts as a loop, in a thought or in an answer, each by itself.

    A piece of at most `longest` characters that ends a text `repeats` times or more, over `characters` characters or more; or,
    where `ngrams` is given, words that repeat anywhere in it.
    """

    repeats: Annotated[int, Field(ge=2)] = 8
    characters: Count = 64
    longest: Annotated[int, Field(ge=1, le=10_000)] = 400
    ngrams: NGrams | None = None


class Gates(Document):
    """Largest tolerable shares of all questions, before the patch.  A run beyond one gives no evidence.

    `loop` says what `loops` counts; left out, what protocols counted before they could say it, and it is no part of the digest
    then.  `reference` asks that a card shows a reference run under the same protocol.  It moves no score: where it is not set,
    it may be left out, and is no part of the digest.
    """

    empty_or_failed: Share
    truncated: Share
    unparsable: Share
    loops: Share
    loop: Loop = Loop()
    reference: bool = False


class Protocol(Document):
    """Everything that can move a score.

    `repeats` is how often each question is asked, each time with another seed (see `request_seed`).
    """

    schema_name: Literal["moe-release/protocol/v1"] = Field(alias="schema")
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    lm_eval: str
    task: Task
    data: DataSet
    option_order: Literal["question-digest"]
    chat: Chat
    server: Server
    sampling: Sampling
    max_tokens: Count
    stop: tuple[str, ...]
    limits: Limits
    patch: Patch | None
    gates: Gates
    repeats: Annotated[int, Field(ge=1, le=MOST_REPEATS)] = 1

    @model_validator(mode="after")
    def _room_for_an_answer(self) -> Self:
        if self.max_tokens >= self.server.context:
            raise ValueError(f"context {self.server.context} has no room for max_tokens {self.max_tokens} and a prompt")
        if self.server.reasoning_budget >= self.max_tokens:
            raise ValueError("reasoning_budget leaves no room for an answer within max_tokens")
        if any(not stop for stop in self.stop):
            raise ValueError("an empty stop string ends every reply at once")
        if self.repeats > 1 and self.sampling.temperature == 0:
            raise ValueError("repeats at temperature 0 are all the same reply; give a temperature or one repeat")
        return self

    @model_validator(mode="after")
    def _thoughts_to_continue(self) -> Self:
        patch = self.patch
        if patch is None or patch.method != "continue-v1":
            return self
        if not (patch.open_thought and patch.close_thought):
            raise ValueError("continue-v1 needs open_thought and close_thought, or the thought would stand in the answer")
        if self.server.reasoning_format == "none":
            raise ValueError("continue-v1 needs a reasoning_format that keeps thoughts; none keeps them in the answer")
        return self

    def request_seed(self, question: str, repeat: int) -> int:
        """The seed of one request: the protocol's own, or with repeats one of its own for each question and repeat.

        Args:
            question: digest of its text.
            repeat: from 0.
        """
        if self.repeats == 1:
            return self.sampling.seed
        return int(sha256_bytes(f"{self.sampling.seed} {question} {repeat}".encode()), 16) % SEEDS

    def request_fields(self) -> dict[str, Any]:
        """The fields that every chat request carries, beside its messages and the model's name.

        llama-server takes a budget of -1 for "as I was started"; no thought is longer than the context.
        """
        budget = self.server.reasoning_budget
        return {
            **self.sampling.model_dump(mode="json"),
            "max_tokens": self.max_tokens,
            "stop": list(self.stop),
            "stream": False,
            "cache_prompt": self.server.prompt_cache,
            "reasoning_format": self.server.reasoning_format,
            "reasoning_budget_tokens": budget if budget >= 0 else self.server.context,
            "reasoning_budget_message": "",
            "chat_template_kwargs": dict(self.chat.template_kwargs),
        }


def load_protocol(path: Path, root: Path) -> Protocol:
    """Read a protocol; its data path is resolved from the protocol's folder and rewritten to be relative to `root`.

    Args:
        path: the protocol's YAML file, inside `root`.
        root: the folder of the manifests, which no path may leave.

    Raises:
        InputError: the file is no protocol, or its data path leaves `root`.
    """
    protocol = load_document(path, Protocol)
    if protocol.data.path is None:
        return protocol
    if Path(protocol.data.path).is_absolute():
        raise InputError(f"{path}: data.path {protocol.data.path!r} must be relative to the protocol's folder")
    relative = os.path.relpath(os.path.normpath(path.parent / protocol.data.path), os.path.normpath(root))
    try:
        path_inside(root, relative)
    except InputError as error:
        raise InputError(f"{path}: data.path {protocol.data.path!r}: {error}") from None
    data = protocol.data.model_copy(update={"path": Path(relative).as_posix()})
    return protocol.model_copy(update={"data": data})


def canonical_protocol(protocol: Protocol) -> dict[str, Any]:
    """What the digest covers: all but names; the data set counts by its content, not by the path where it stands.

    What the format got later is left out where it is not used, so that digests stay what they were.
    """
    value = protocol.model_dump(mode="json", exclude={"name": True, "data": {"path"}})
    if not protocol.gates.reference:
        del value["gates"]["reference"]
    if protocol.gates.loop == Loop():
        del value["gates"]["loop"]
    if protocol.chat.tokenizer_sha256 is None:
        del value["chat"]["tokenizer_sha256"]
    if protocol.repeats == 1:
        del value["repeats"]
    return {key: each for key, each in value.items() if key != "schema_name"} | {"schema": protocol.schema_name}


def protocol_digest(protocol: Protocol) -> str:
    """SHA-256 of the canonical form, hex.  Two scores may be compared if and only if these are equal."""
    return digest_of(canonical_protocol(protocol))
