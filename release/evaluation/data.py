"""The questions of a protocol: found, proved by digest, and their options put in an order that depends on nothing else."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruner.calibration import question_digest
from pruner.errors import CheckFailedError, InputError
from pruner.files import digest_of, is_text, path_inside, sha256_bytes
from pruner.option_order import option_order
from pruner.wording import counted
from release.evaluation.protocol import DataSet

Row = dict[str, str]


@dataclass(frozen=True)
class Question:
    """One question of a data set, without its text.

    Attributes:
        id: the data set's own identifier.
        digest: `pruner.calibration.question_digest` of its text; evidence is paired, and overlap with a calibration set found,
            by it.
        order: option i of the prompt is column `order[i]` of the protocol's `option_columns`.
        target: the letter of the correct option.
        distinct: whether no two options have the same text, so that `target` has no alternative.
    """

    id: str
    digest: str
    order: tuple[int, ...]
    target: str
    distinct: bool


def load_rows(data: DataSet, root: Path) -> list[Row]:
    """Read the questions and prove that they are the protocol's.

    Raises:
        InputError: the file is missing, or is no table of strings with the protocol's columns.
        CheckFailedError: it is not the file whose digest the protocol names.
        UnavailableError: the Hub does not give the file; of a gated data set, the message says what to accept where.
    """
    path = path_inside(root, data.path) if data.path is not None else _from_hub(data)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{data.path or data.file}: data set cannot be read: {error.strerror}") from None
    found = sha256_bytes(content)
    name = data.path or f"{data.repository}@{data.revision}/{data.file}"
    if found != data.sha256:
        raise CheckFailedError(f"{name}: sha256 is {found}, the protocol names {data.sha256}; restore the file")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{name}: not UTF-8 text") from None
    rows = _parse_csv(name, text) if path.suffix == ".csv" else _parse_json_lines(name, text)
    _check_rows(name, data, rows)
    return rows


def questions_of(data: DataSet, rows: Sequence[Row]) -> list[Question]:
    """What the evidence may say about each row."""
    return [_question(data, row) for row in rows]


def _question(data: DataSet, row: Row) -> Question:
    digest = question_digest(row[data.question_column])
    order = option_order(row[data.question_column], len(data.option_columns))
    target = data.letters[order.index(data.option_columns.index(data.correct_column))]
    distinct = len({row[column].strip() for column in data.option_columns}) == len(data.option_columns)
    return Question(id=row[data.id_column], digest=digest, order=order, target=target, distinct=distinct)


def digest_of_questions(digests: Sequence[str]) -> str:
    """One digest for a set of questions, in whatever order they stand."""
    return digest_of(sorted(digests))


class OrderedRows:
    """Rows that lend themselves to a task's own `process_docs`, whose shuffle becomes the protocol's option order.

    lm-eval's tasks call `random.shuffle` inside `dataset.map`, so that the order depends on whatever ran before and on a cache.
    Here the task's code runs unchanged, but each row's shuffle depends on that row's question alone.
    """

    def __init__(self, rows: Sequence[Row], question_column: str) -> None:
        self._rows = rows
        self._question_column = question_column

    def map(self, function: Callable[[Row], dict[str, Any]]) -> Any:
        """Apply `function` to each row and return a `datasets.Dataset` in memory, without any cache of the disk."""
        from datasets import Dataset

        return Dataset.from_list([{**row, **self._call(function, row)} for row in self._rows])

    def _call(self, function: Callable[[Row], dict[str, Any]], row: Row) -> dict[str, Any]:
        def shuffle(values: list[Any]) -> None:
            values[:] = [values[index] for index in option_order(row[self._question_column], len(values))]

        before = random.shuffle
        random.shuffle = shuffle  # type: ignore[assignment]
        try:
            return function(row)
        finally:
            random.shuffle = before


def _from_hub(data: DataSet) -> Path:
    from release.hub.datasets import dataset_file
    from release.hub.endpoint import input_hub

    return dataset_file(input_hub(), str(data.repository), str(data.revision), str(data.file))


def _parse_csv(name: str, text: str) -> list[Row]:
    """Every cell stays text: lm-eval's own reader turns a column of numbers into integers and then fails on them."""
    try:
        return [dict(row) for row in csv.DictReader(io.StringIO(text, newline=""))]
    except csv.Error as error:
        raise InputError(f"{name}: not CSV: {error}") from None


def _parse_json_lines(name: str, text: str) -> list[Row]:
    rows = []
    for number, line in enumerate(text.rstrip("\n").split("\n"), 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise InputError(f"{name}:{number}:{error.colno}: not JSON: {error.msg}") from None
        except (ValueError, RecursionError):
            raise InputError(f"{name}:{number}: not usable JSON: a number or its nesting is too large") from None
    return rows


def _check_rows(name: str, data: DataSet, rows: list[Row]) -> None:
    columns = (data.id_column, data.question_column, *data.option_columns)
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise InputError(f"{name}: question {number} is no object with columns")
        if not all(isinstance(column, str) for column in row):
            raise InputError(f"{name}: question {number} has more cells than there are columns")
        bad = next((column for column in columns if not is_text(row.get(column))), None)
        if bad is not None:
            raise InputError(f"{name}: question {number} has no text in column {bad!r}; the protocol names it")
    digests = [question_digest(row[data.question_column]) for row in rows]
    if len(rows) != data.questions:
        raise CheckFailedError(f"{name}: {counted(len(rows), 'question')}, the protocol names {data.questions}")
    ids = {row[data.id_column] for row in rows}
    if len(ids) != len(rows):
        raise CheckFailedError(f"{name}: two questions have the same {data.id_column!r}; give each its own")
    if len(set(digests)) != len(digests):
        raise CheckFailedError(f"{name}: a question appears twice; answers could not be paired")
    if data.question_digests is not None and digest_of_questions(digests) != data.question_digests:
        raise CheckFailedError(f"{name}: these are not the questions whose digest the protocol names")
