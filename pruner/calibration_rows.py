"""Tables of questions as people have them: JSON Lines, or CSV with a line of column names.  No message quotes a cell."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pruner.errors import InputError
from pruner.files import is_text

MOST_DIGITS = 9


def table_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a JSONL or CSV file, each with the number of its line (of CSV: its last line).

    Raises:
        InputError: the file cannot be read, or a row is none.
    """
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


def cell(row: dict[str, Any], name: str, where: str) -> str:
    """The text of a column.

    Raises:
        InputError: the column is missing, or no text.
    """
    value = row.get(name)
    if not is_text(value) or not value.strip():
        raise InputError(f"{where}: column {name!r} is missing or no text; set the field map to the data set's columns")
    return value


def is_blank(value: Any) -> bool:
    """Whether a cell holds nothing, or a text of white space."""
    return value in (None, []) or (isinstance(value, str) and not value.strip())


def is_empty(row: dict[str, Any], name: str, where: str) -> bool:
    """Whether a column's cell is empty; a column that is not there at all is a wrong field map.

    Raises:
        InputError: the column is missing, or neither empty nor text.
    """
    if name in row and is_blank(row[name]):
        return True
    cell(row, name, where)
    return False


def list_cell(row: dict[str, Any], name: str, where: str, least: int, most: int) -> list[str]:
    """The texts of a column that holds a list; of CSV, a list in JSON.

    Raises:
        InputError: it holds none, or fewer or more.
    """
    value = row.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, list) or not all(is_text(each) and each.strip() for each in value):
        raise InputError(
            f"{where}: column {name!r} is missing or no list of texts; set the field map to the data set's columns"
        )
    if not least <= len(value) <= most:
        raise InputError(f"{where}: column {name!r} lists {len(value)} choices; {least} to {most} are needed")
    return value


def number_cell(row: dict[str, Any], name: str, where: str, count: int) -> int:
    """The whole number of a column, below `count`.

    Raises:
        InputError: it is none.
    """
    value = row.get(name)
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        value = int(value.strip()[:MOST_DIGITS])
    if type(value) is not int or not 0 <= value < count:
        raise InputError(f"{where}: column {name!r} is no number from 0 to {count - 1}, one for each choice")
    return value
