"""The calibration set: questions with their correct reasoning and answer, rendered as the model would have written them.

Vocabulary: the *prompt* is what lm-eval's `gpqa_*_cot_zeroshot` tasks ask, inside the tokenizer's own chat template; the
*reply* is the correct reasoning and answer in the form that the model uses.  A question's text never leaves this module:
everything that is stored names a question by its digest.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pruner.calibration_rows import cell, is_blank, is_empty, list_cell, number_cell, table_rows
from pruner.chat_prompts import chat_prompts
from pruner.errors import InputError
from pruner.files import sha256_bytes, sha256_file
from pruner.option_order import option_order
from pruner.template_date import timeless

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

    question: str = Field("Question", description="Column of the question.")
    choices: tuple[str, ...] | str = Field(
        ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3", "Correct Answer"),
        description="Columns of the choices, in the order that the shuffle starts from; or the one column that lists them.",
    )
    reasoning: str = Field("Explanation", description="Column of the correct reasoning.")
    answer: str = Field("Correct Answer", description="Column of the correct choice …")
    answer_as: Literal["choice", "letter", "index"] = Field(
        "choice",
        description="… and what stands there: the choice itself, in one of the columns `choices`; its letter; or its number "
        "from 0. By letter or number, choices keep their own order, because the reasoning may name them so.",
    )

    @model_validator(mode="after")
    def _answer_is_a_choice(self) -> FieldMap:
        if isinstance(self.choices, str):
            if self.answer_as == "choice":
                raise ValueError("answer_as: with one column of choices, say whether the answer is a letter or an index")
            return self
        if self.answer_as == "choice" and self.answer not in self.choices:
            raise ValueError(f"answer: column {self.answer!r} is none of the choices {list(self.choices)}")
        if not 2 <= len(self.choices) <= len(LETTERS):  # noqa: PLR2004 - a question needs two choices
            raise ValueError("choices: 2 to 26 columns are needed")
        return self

    def texts(self, row: dict[str, Any], where: str) -> list[str]:
        """The choices of a row, as they stand there.

        Raises:
            InputError: one is missing, or they are no list.
        """
        if isinstance(self.choices, str):
            return list_cell(row, self.choices, where, 2, len(LETTERS))
        return [cell(row, name, where) for name in self.choices]


GPQA_FIELDS = FieldMap()

WithoutReasoning: TypeAlias = Literal["refuse", "skip", "answer_only"]
"""What becomes of questions whose reasoning is empty: the set is refused; they are left out and counted; or their reply is the
answer alone."""


Unusable: TypeAlias = Literal["refuse", "skip"]
"""What becomes of questions that stand twice, lack their text or a choice, or hold a special token of the tokenizer: the set is
refused, or they are left out and counted."""


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
    unusable: int = 0
    """Questions of the file that were skipped for another reason; see `Unusable`."""

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
    path: Path,
    fields: FieldMap = GPQA_FIELDS,
    without_reasoning: WithoutReasoning = "refuse",
    unusable: Unusable = "refuse",
) -> CalibrationSet:
    """Read a calibration set: JSONL with one object of strings a line, or CSV with a line of column names (`.csv`).

    Raises:
        InputError: the file is missing or empty, a line is no JSON object, a row has more cells than columns, a column is
            missing or empty, a question stands twice.  The message names file and line, and never quotes a question.
    """
    seen: dict[str, int] = {}
    questions = []
    left_out = skipped = 0
    for number, row in table_rows(path):
        where = f"{path}:{number}"
        if without_reasoning == "skip" and is_empty(row, fields.reasoning, where):
            left_out += 1
            continue
        if unusable == "skip" and (_incomplete(row, fields) or question_digest(cell(row, fields.question, where)) in seen):
            skipped += 1
            continue
        question = _question(row, fields, where, without_reasoning)
        first = seen.setdefault(question.digest, number)
        if first != number:
            raise InputError(
                f"{where}: the question of line {first} stands here again; remove one, or set prune.analysis.unusable"
            )
        questions.append(question)
    if not questions:
        raise InputError(f"{path}: the calibration set holds no question" + (" with reasoning" if left_out else ""))
    return CalibrationSet(tuple(questions), sha256_file(path), left_out, skipped)


def _incomplete(row: dict[str, Any], fields: FieldMap) -> bool:
    """Whether a cell is empty without which a row is no question; a column that is not there at all is a wrong field map."""
    columns = (fields.choices,) if isinstance(fields.choices, str) else fields.choices
    cells = [row[name] for name in (fields.question, fields.answer, *columns) if name in row]
    return any(is_blank(part) for each in cells for part in (each if isinstance(each, list) and each else [each]))


def without_special_tokens(tokenizer: Any, questions: CalibrationSet) -> CalibrationSet:
    """The set without the questions that `render` refuses for a special token; they are counted.

    Raises:
        InputError: none is left.
    """
    left = tuple(each for each in questions if not _special_tokens(tokenizer, each))
    if not left:
        raise InputError("calibration set: every question holds a special token of the base's tokenizer")
    return replace(questions, questions=left, unusable=questions.unusable + len(questions) - len(left))


def read_classes(path: Path, fields: FieldMap, column: str) -> dict[str, str]:
    """The class of each question, by the question's digest.

    Args:
        path: the calibration set.
        fields: its columns.
        column: the column that holds a question's class, such as GPQA's `High-level domain`.

    Raises:
        InputError: the set cannot be read, or a question has no class.  Rows without a question's text are none.
    """
    return {
        question_digest(cell(row, fields.question, f"{path}:{number}")): cell(row, column, f"{path}:{number}").strip()
        for number, row in table_rows(path)
        if not is_empty(row, fields.question, f"{path}:{number}")
    }


def read_digests(path: Path, fields: FieldMap) -> tuple[str, ...]:
    """Digest of each question; only the question's column is looked at.

    Raises:
        InputError: the set cannot be read or holds no question.
    """
    if not (digests := tuple(read_classes(path, fields, fields.question))):
        raise InputError(f"{path}: the calibration set holds no question")
    return digests


def _question(row: dict[str, Any], fields: FieldMap, where: str, without_reasoning: WithoutReasoning) -> Question:
    alone = without_reasoning == "answer_only" and is_empty(row, fields.reasoning, where)
    text = cell(row, fields.question, where)
    choices = [clean_choice(each) for each in fields.texts(row, where)]
    if fields.answer_as == "choice":
        choices = [choices[index] for index in option_order(text, len(choices))]
        answer = choices.index(clean_choice(cell(row, fields.answer, where)))
    else:
        answer = choices.index(choices[_place(row, fields, where, len(choices))])
    reasoning = "" if alone else cell(row, fields.reasoning, where).strip()
    return Question(text, tuple(choices), answer, reasoning, question_digest(text))


def _place(row: dict[str, Any], fields: FieldMap, where: str, choices: int) -> int:
    """Place of the correct choice, from its letter or its number."""
    if fields.answer_as == "index":
        return number_cell(row, fields.answer, where, choices)
    letter = cell(row, fields.answer, where).strip().strip("().").upper()
    if len(letter) != 1 or letter not in LETTERS[:choices]:
        raise InputError(
            f"{where}: column {fields.answer!r} is no letter from A to {LETTERS[choices - 1]}, one for each choice"
        )
    return LETTERS.index(letter)


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


def prompts_of(tokenizer: Any, questions: Sequence[Question]) -> list[str]:
    """The prompt of each question, in the tokenizer's chat template, with thinking enabled.

    Raises:
        InputError: the tokenizer has no chat template, or it cannot be rendered within bounded memory and time.
    """
    template = timeless(template_of(tokenizer))
    return chat_prompts(template, tokenizer.special_tokens_map, [prompt_text(question) for question in questions])


def render(
    tokenizer: Any, question: Question, prompt: str, *, reply_format: str | None = None, max_tokens: int = 4096
) -> RenderedQuestion:
    """Tokenize a question's prompt and its correct reply.

    They are tokenized apart, as in generation, where the reply starts on a token of its own.

    Args:
        tokenizer: a transformers tokenizer with a chat template.
        question: what to render.
        prompt: its prompt, see `prompts_of`.
        reply_format: how thought and answer are put together, with the fields `{reasoning}` and `{letter}`; None takes
            `default_reply_format` of the template.
        max_tokens: longer sequences lose their end and are marked as truncated.

    Raises:
        InputError: the tokenizer has no chat template, the reply format is not usable, or the question's text holds one of the
            tokenizer's special tokens.
    """
    reply_format = default_reply_format(template_of(tokenizer)) if reply_format is None else reply_format
    check_reply_format(reply_format)
    if found := _special_tokens(tokenizer, question):
        raise InputError(
            f"question {question.digest[:16]}: its text holds the special token {found[0]!r}, which would change the turns; "
            "change it, or skip what is unusable (prune.analysis.unusable)"
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


def _special_tokens(tokenizer: Any, question: Question) -> list[str]:
    """The tokenizer's special tokens in what is not ours of a rendered question."""
    text = prompt_text(question) + question.reasoning
    added = tokenizer.added_tokens_decoder.values()
    return sorted({str(token) for token in added if token.special and str(token).strip() and str(token) in text})
