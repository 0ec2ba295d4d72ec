"""YAML documents validated by pydantic models, with errors that name file, line, column and the nearest known key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pruner.errors import InputError
from pruner.files import read_json
from pruner.places import require_possible, unreadable
from release.document_errors import describe
from release.file_kinds import MANIFEST, mistaken

SEXAGESIMAL = frozenset({"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"})
MAXIMUM_BYTES = 256 << 10
YAML_FILE = "a YAML file that begins with its schema, such as `schema: {}`"
PLAIN_TAGS = frozenset({"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})


class Document(BaseModel):
    """Base of every part of a document: immutable; an unknown key is an error, and so is a number that JSON cannot hold."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


DocumentT = TypeVar("DocumentT", bound=Document)
Position = tuple[int, int]


class _Loader(yaml.SafeLoader):
    """Safe YAML without aliases: a foreign document may not multiply itself in memory, nor take long by its depth."""

    deepest = 50
    """Values within values; each more takes the library longer than the last."""
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            self._refuse("aliases are not supported")
        if self.depth == self.deepest:
            self._refuse(f"values are nested more than {self.deepest} deep")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _refuse(self, problem: str) -> NoReturn:
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.peek_event().start_mark)  # type: ignore[no-untyped-call]


def load_document(path: Path, model: type[DocumentT]) -> DocumentT:
    """Read and validate a YAML document.

    Raises:
        InputError: one line with file:line:column, what is wrong, and the nearest known key for an unknown one.
    """
    wanted = _schema(model)
    positions: dict[tuple[Any, ...], Position] = {}
    try:
        data = _construct(path, _compose(path, wanted), (), positions)
        return model.model_validate(data)
    except (InputError, ValidationError) as error:
        if told := mistaken(path, wanted):
            raise InputError(told) from None
        if isinstance(error, InputError):
            raise
        raise InputError(describe(path, model, error, positions, data)) from None


def _schema(model: type[BaseModel]) -> str:
    """The schema that a document of this model begins with."""
    field = next((each for each in model.model_fields.values() if each.alias == "schema"), None)
    names: tuple[str, ...] = getattr(field.annotation, "__args__", ()) if field else ()
    return names[0] if names else MANIFEST


def load_json_document(path: Path, model: type[DocumentT], what: str, maximum: int) -> DocumentT:
    """Read and validate a JSON document of at most `maximum` bytes, under the rules of JSON's own types; `what` it is called.

    Raises:
        InputError: it is missing, too large, no JSON, or nested too deeply.
        ValidationError: it is not what the model says, which the caller words.
    """
    value = read_json(path, what, maximum)
    try:
        return model.model_validate_json(json.dumps(value))
    except RecursionError:
        raise InputError(f"{path}: no {what.removeprefix('the ')}: it is nested too deeply") from None


def place_of(path: Path, value: str) -> str:
    """`file:line:column: key` of the first value of a document that is this text; the file alone when none is."""
    return _place(path, lambda _, found: found == value)


def place_of_key(path: Path, key: str) -> str:
    """`file:line:column: key` of a key such as `prune.experts`; the file and the key alone when the document leaves it out."""
    place = _place(path, lambda where, _: where == tuple(key.split(".")))
    return place if place != str(path) else f"{path}: {key}"


def _place(path: Path, wanted: Callable[[tuple[Any, ...], Any], bool]) -> str:
    positions: dict[tuple[Any, ...], Position] = {}
    try:
        data = _construct(path, _compose(path), (), positions)
    except InputError:  # it was read before and is no more
        return str(path)
    for where, (line, column) in positions.items():
        value = data
        for part in where:
            value = value[part]
        if wanted(where, value):
            return f"{path}:{line}:{column}: {'.'.join(map(str, where))}"
    return str(path)


def _compose(path: Path, schema: str = MANIFEST) -> yaml.Node:
    require_possible(path)
    yaml_file = YAML_FILE.format(schema)
    try:
        if path.stat().st_size > MAXIMUM_BYTES:
            raise InputError(f"{path}: larger than {MAXIMUM_BYTES >> 10} KiB; this is no {path.suffix} document of ours")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: {unreadable(path, error)}; give {yaml_file}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text; give {yaml_file}") from None
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{mark.line + 1}:{mark.column + 1}" if mark else "1:1"
        raise InputError(f"{path}:{where}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:  # chr() of an escape beyond Unicode, too
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if node is None:
        raise InputError(f"{path}: is empty; give {yaml_file}")
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{path}:1:1: expected a mapping of keys to values; give {yaml_file}")
    return node


def _construct(path: Path, node: yaml.Node, where: tuple[Any, ...], positions: dict[tuple[Any, ...], Position]) -> Any:
    """Python value of a node; fills `positions` with the place of each key and item, and refuses duplicate keys."""
    start = (node.start_mark.line + 1, node.start_mark.column + 1)
    positions.setdefault(where, start)
    if not isinstance(node, yaml.ScalarNode) and node.tag not in PLAIN_TAGS:
        raise InputError(f"{path}:{start[0]}:{start[1]}: the tag {node.tag!r} is not supported")
    if isinstance(node, yaml.MappingNode):
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = _scalar(path, key_node)
            line, column = key_node.start_mark.line + 1, key_node.start_mark.column + 1
            if key in result:
                raise InputError(f"{path}:{line}:{column}: key {key!r} appears twice")
            positions[*where, key] = (line, column)
            result[key] = _construct(path, value_node, (*where, key), positions)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_construct(path, item, (*where, index), positions) for index, item in enumerate(node.value)]
    return _scalar(path, node)


LARGEST_NUMBER = 64
"""Bits of a whole number in a document."""


def _scalar(path: Path, node: yaml.Node) -> Any:
    line, column = node.start_mark.line + 1, node.start_mark.column + 1
    if not isinstance(node, yaml.ScalarNode):
        raise InputError(f"{path}:{line}:{column}: a key must be a word")
    if ":" in node.value and node.tag in SEXAGESIMAL:  # YAML 1.1 reads 1:30 as ninety, in quadratic time
        return node.value
    if node.tag == "tag:yaml.org,2002:timestamp":  # dates stay text: a document holds no clock time
        return node.value
    try:
        value = yaml.SafeLoader("").construct_object(node)
        if isinstance(value, int) and value.bit_length() > LARGEST_NUMBER:
            raise InputError(f"{path}:{line}:{column}: a number of more than {LARGEST_NUMBER} bits")
        # YAML takes each half of a pair for a character of its own; half a pair alone is no text
        return value.encode("utf-16", "surrogatepass").decode("utf-16") if isinstance(value, str) else value
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError):
        raise InputError(f"{path}:{line}:{column}: {node.value!r} cannot be read as {node.tag.rsplit(':', 1)[-1]}") from None
