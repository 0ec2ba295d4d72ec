"""The calibration set: questions with their correct reasoning and answer, rendered as the model would have written them.

Vocabulary: the *prompt* is what lm-eval's `gpqa_*_cot_zeroshot` tasks ask, inside the tokenizer's own chat template; the
*reply* is the correct reasoning and answer in the form that the model uses.  A question's text never leaves this module:
everything that is stored names a question by its digest.
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, model_validator

from pruner.errors import InputError
from pruner.files import sha256_bytes, sha256_file
from pruner.option_order import option_order

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

REPLY_FORMATS = {
    "<|channel>": "<|channel>thought\n{reasoning}<channel|>The answer is ({letter}).<turn|>",
    "<|channel|>": "<|channel|>analysis<|message|>{reasoning}<|end|><|start|>assistant<|channel|>final<|message|>"
    "The answer is ({letter}).<|return|>",
    "<think>": "<think>\n{reasoning}\n</think>\n\nThe answer is ({letter}).",
}
"""Mark in a chat template → form of a reply that thinks in its channel (Gemma 4, gpt-oss, Qwen3 and its kin)."""

PLAIN_REPLY_FORMAT = "{reasoning}\nThe answer is ({letter})."


class FieldMap(BaseModel):
    """Names of a data set's columns; the defaults are GPQA's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str = "Question"
    choices: tuple[str, ...] = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3", "Correct Answer")
    """Columns of the choices, in the order that `option_order` starts from."""
    reasoning: str = "Explanation"
    answer: str = "Correct Answer"
    """Column of the correct choice: one of `choices`."""

    @model_validator(mode="after")
    def _answer_is_a_choice(self) -> FieldMap:
        if self.answer not in self.choices:
            raise ValueError(f"answer: column {self.answer!r} is none of the choices {list(self.choices)}")
        if not 2 <= len(self.choices) <= len(LETTERS):  # noqa: PLR2004 - a question needs two choices
            raise ValueError("choices: 2 to 26 columns are needed")
        return self


GPQA_FIELDS = FieldMap()

WithoutReasoning: TypeAlias = Literal["refuse", "skip", "answer_only"]
"""What becomes of questions whose reasoning is empty: the set is refused; they are left out and counted; or their reply is the
answer alone."""


@dataclass(frozen=True)
class Question:
    """One question with its choices in the order in which they are shown."""

    text: str
    choices: tuple[str, ...]
    answer: int
    """Index into `choices` of the first choice whose text is the correct answer's, as lm-eval finds it."""
    reasoning: str
    digest: str
    """`question_digest` of the text."""

    @property
    def letter(self) -> str:
        """Letter of the correct choice."""
        return LETTERS[self.answer]


@dataclass(frozen=True)
class CalibrationSet:
    """Questions in the file's order, and the SHA-256 of the file."""

    questions: tuple[Question, ...]
    digest: str
    left_out: int = 0
    """Questions of the file that were skipped, because their reasoning is empty."""

    def __len__(self) -> int:
        return len(self.questions)

    def __iter__(self) -> Iterator[Question]:
        return iter(self.questions)


@dataclass(frozen=True)
class RenderedQuestion:
    """Token ids of prompt and reply, as they enter one teacher-forced forward pass."""

    token_ids: tuple[int, ...]
    answer_start: int
    """Index of the reply's first token; equal to `len(token_ids)` when truncation left nothing of the reply."""
    truncated: bool
    digest: str
    """`question_digest` of the question."""


def overlapping_questions(calibration: Sequence[str], exam: Sequence[str]) -> tuple[str, ...]:
    """Digests of the exam's questions that stand in the calibration set, in the exam's order."""
    seen = set(calibration)
    return tuple(digest for digest in exam if digest in seen)


def question_digest(text: str) -> str:
    """SHA-256 of a question's text in NFKC, case-folded, with runs of white space as one space and none at the ends."""
    return sha256_bytes(" ".join(unicodedata.normalize("NFKC", text).casefold().split()).encode())


def read_calibration(
    path: Path, fields: FieldMap = GPQA_FIELDS, without_reasoning: WithoutReasoning = "refuse"
) -> CalibrationSet:
    """Read a calibration set: JSONL with one object of strings a line, or CSV with a line of column names (`.csv`).

    Raises:
        InputError: the file is missing or empty, a line is no JSON object, a row has more cells than columns, a column is
            missing or empty, a question stands twice.  The message names file and line, and never quotes a question.
    """
    seen: dict[str, int] = {}
    questions = []
    left_out = 0
    for number, row in _rows(path):
        if without_reasoning == "skip" and _is_empty(row, fields.reasoning, f"{path}:{number}"):
            left_out += 1
            continue
        question = _question(row, fields, f"{path}:{number}", without_reasoning)
        first = seen.setdefault(question.digest, number)
        if first != number:
            raise InputError(f"{path}:{number}: the question of line {first} stands here again; remove one of the two")
        questions.append(question)
    if not questions:
        raise InputError(f"{path}: the calibration set holds no question" + (" with reasoning" if left_out else ""))
    return CalibrationSet(tuple(questions), sha256_file(path), left_out)


def read_classes(path: Path, fields: FieldMap, column: str) -> dict[str, str]:
    """The class of each question, by the question's digest.

    Args:
        path: the calibration set.
        fields: its columns.
        column: the column that holds a question's class, such as GPQA's `High-level domain`.

    Raises:
        InputError: the set cannot be read, or a question has no class.
    """
    return {
        question_digest(_cell(row, fields.question, f"{path}:{number}")): _cell(row, column, f"{path}:{number}").strip()
        for number, row in _rows(path)
    }


def read_digests(path: Path, fields: FieldMap) -> tuple[str, ...]:
    """Digest of each question; only the question's column is looked at.

    Raises:
        InputError: the set cannot be read or holds no question.
    """
    if not (digests := tuple(read_classes(path, fields, fields.question))):
        raise InputError(f"{path}: the calibration set holds no question")
    return digests


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a JSONL or CSV file, each with the number of its line (of CSV: its last line)."""
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise InputError(f"{path}: the calibration set cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: the calibration set is not UTF-8 text") from None
    return _csv_rows(path, text) if path.suffix.lower() == ".csv" else _json_rows(path, text)


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, _row(line, f"{path}:{number}")


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    text = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")  # a spreadsheet's byte order mark is no part of a name
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if None in row:
                raise InputError(f"{path}:{reader.line_num}: more cells than there are columns; is it CSV with commas?")
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{path}:{reader.reader.line_num}: not CSV: {error}") from None


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(f"{where}: not a JSON object; the calibration set is a JSONL file") from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: not a JSON object; the calibration set is a JSONL file")
    return row


def _cell(row: dict[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: column {name!r} is missing or no text; set the field map to the data set's columns")
    return value


def _is_empty(row: dict[str, Any], name: str, where: str) -> bool:
    """Whether a column's cell is empty; a column that is not there at all is a wrong field map.

    Raises:
        InputError: the column is missing, or neither empty nor text.
    """
    if name in row and (row[name] is None or (isinstance(row[name], str) and not row[name].strip())):
        return True
    _cell(row, name, where)
    return False


def _question(row: dict[str, Any], fields: FieldMap, where: str, without_reasoning: WithoutReasoning) -> Question:
    def column(name: str) -> str:
        return _cell(row, name, where)

    alone = without_reasoning == "answer_only" and _is_empty(row, fields.reasoning, where)

    text = column(fields.question)
    choices = [clean_choice(column(name)) for name in fields.choices]
    shown = tuple(choices[index] for index in option_order(text, len(choices)))
    answer = shown.index(clean_choice(column(fields.answer)))
    return Question(text, shown, answer, "" if alone else column(fields.reasoning).strip(), question_digest(text))


def clean_choice(text: str) -> str:
    """A choice's text as lm-eval's GPQA task 2.2 shows it."""
    return text.strip().replace(" [title]", ". ").replace("  ", " ")


def prompt_text(question: Question) -> str:
    """The user's message: `doc_to_text` of lm-eval's `gpqa_*_cot_zeroshot`, letter for letter."""
    choices = "\n".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, question.choices, strict=False))
    return f"What is the correct answer to this question:{question.text}\nChoices:\n{choices}\nLet's think step by step: "


def default_reply_format(template: str) -> str:
    """The reply format that fits a chat template: in its thinking channel when it has one."""
    return next((form for mark, form in REPLY_FORMATS.items() if mark in template), PLAIN_REPLY_FORMAT)


def check_reply_format(reply_format: str) -> None:
    """Raise InputError unless `{reasoning}` and `{letter}` are the only fields of a reply format and both stand in it."""
    found = re.findall(r"\{[^{}]*\}", reply_format)
    if set(found) != {"{reasoning}", "{letter}"}:
        raise InputError(f"reply format: the fields must be {{reasoning}} and {{letter}}, found {', '.join(found) or 'none'}")


def reply_text(question: Question, reply_format: str) -> str:
    """The correct reply; the reasoning is put in last, so that braces in it mean nothing."""
    return reply_format.replace("{letter}", question.letter).replace("{reasoning}", question.reasoning)


def render(tokenizer: Any, question: Question, *, reply_format: str | None = None, max_tokens: int = 4096) -> RenderedQuestion:
    """Render a question and its correct reply through the tokenizer's chat template, with thinking enabled.

    Prompt and reply are tokenized apart, as in generation, where the reply starts on a token of its own.

    Args:
        tokenizer: a transformers tokenizer with a chat template.
        question: what to render.
        reply_format: how thought and answer are put together, with the fields `{reasoning}` and `{letter}`; None takes
            `default_reply_format` of the template.
        max_tokens: longer sequences lose their end and are marked as truncated.

    Raises:
        InputError: the tokenizer has no chat template, the reply format is not usable, or the question's text holds one of the
            tokenizer's special tokens.
    """
    template = template_of(tokenizer)
    reply_format = default_reply_format(template) if reply_format is None else reply_format
    check_reply_format(reply_format)
    user = prompt_text(question)
    _refuse_special_tokens(tokenizer, user + question.reasoning, question.digest)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": user}], tokenize=False, add_generation_prompt=True, enable_thinking=True
    )
    reply = reply_text(question, reply_format)
    if prompt.rstrip().endswith("<think>"):  # some templates open the thinking channel themselves
        reply = reply.removeprefix("<think>\n")
    head, tail = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, reply))
    token_ids = (*head, *tail)
    return RenderedQuestion(
        token_ids=token_ids[:max_tokens],
        answer_start=min(len(head), max_tokens),
        truncated=len(token_ids) > max_tokens,
        digest=question.digest,
    )


def template_of(tokenizer: Any) -> str:
    """The tokenizer's chat template.

    Raises:
        InputError: it has none, or several.
    """
    template = tokenizer.chat_template
    if not isinstance(template, str) or not template:
        raise InputError("the base's tokenizer has no single chat template; add chat_template.jinja to the base")
    return template


def _refuse_special_tokens(tokenizer: Any, text: str, digest: str) -> None:
    added = tokenizer.added_tokens_decoder.values()
    found = sorted({str(token) for token in added if token.special and str(token).strip() and str(token) in text})
    if found:
        raise InputError(f"question {digest[:16]}: its text holds the special token {found[0]!r}, which would change the turns")
