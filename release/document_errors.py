"""One line for what pydantic says of a document: where, what is wrong in words, and the nearest thing that would be right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from release.patterns import WORDS

Location = tuple[Any, ...]
Positions = Mapping[Location, tuple[int, int]]
DEEPEST = 8
"""Far deeper than any of our documents; models may contain themselves."""
MOST_PLACES, MOST_KEYS, LONGEST_INPUT = 2, 14, 80
MAPPING_WANTED = ("model_type", "model_attributes_type", "dict_type")
QUOTED = re.compile(r"'([^']*)'")
WORD = re.compile(r"[A-Za-z_][\w.]*\w")


def describe(path: Path, model: type[BaseModel], error: ValidationError, positions: Positions, data: Any) -> str:
    """One line for the first problem of a validation error; an unknown key comes before all others.

    Args:
        path: the document.
        model: what it should have been.
        error: what pydantic found.
        positions: line and column of each key and item, by its path in the document.
        data: the document's content.
    """
    problem = min(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
    tagged = tuple(part for part in problem["loc"] if isinstance(part, (str, int)))
    location, kind = _in_document(tagged, data, problem["type"]), problem["type"]
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        location = (*location, problem["ctx"]["discriminator"].strip("'"))
    name = ".".join(str(part) for part in location)
    if kind == "extra_forbidden":
        text = f"unknown key {name!r}{_hint(model, tagged)}"
    elif kind in ("missing", "union_tag_not_found"):
        text = f"key {name!r} is missing"
    else:
        text = _message(problem) + _in_full(model, tagged, problem)
        location, text = _meant(location, text, positions), f"{name}: {text}" if name else text
    line, column = next(positions[place] for place in _outwards(location) if place in positions)
    return f"{path}:{line}:{column}: {text}"


def _in_document(location: Location, data: Any, kind: str) -> Location:
    """A location without what pydantic adds: tags of unions, and keys of a value that a document writes in short."""
    found: list[Any] = []
    for index, part in enumerate(location):
        held = data if isinstance(data, Mapping) else range(len(data)) if isinstance(data, list) else ()
        if part in held:
            data = data[part]
        elif kind != "missing" or index < len(location) - 1:
            continue
        found.append(part)
    return tuple(found)


def _outwards(location: Location) -> Iterator[Location]:
    return (location[:length] for length in range(len(location), -1, -1))


def _meant(location: Location, text: str, positions: Positions) -> Location:
    """The key of a part that a message about the whole part names first."""
    words = ((*location, *word.split(".")) for word in WORD.findall(text))
    return next((place for place in words if place in positions), location)


def _message(problem: Mapping[str, Any]) -> str:
    """What is wrong, in words."""
    kind, given, context = problem["type"], _short(problem["input"]), problem.get("ctx", {})
    if kind == "string_pattern_mismatch" and context["pattern"] in WORDS:
        return f"{WORDS[context['pattern']]}, not {given}"
    if kind in ("int_parsing", "int_type", "int_from_float", "int_parsing_size"):
        return f"write a whole number, not {given}"
    if kind in MAPPING_WANTED:
        return f"expected a mapping of keys to values, not {given}"
    if kind == "union_tag_invalid":
        key, tag = context["discriminator"].strip("'"), str(context["tag"])
        return f"unknown {key} {tag!r}{_near(tag, re.findall(QUOTED, context['expected_tags']), all_else=True)}"
    text = " ".join(str(problem["msg"]).split()).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    text = text[:1].lower() + text[1:]
    if kind == "literal_error":
        return text + _near(str(problem["input"]), re.findall(QUOTED, context["expected"]))
    return f"{text}, not {given}" if kind.startswith(("greater_than", "less_than")) else text


def _in_full(model: type[BaseModel], location: Location, problem: Mapping[str, Any]) -> str:
    """How to write a mapping of which only the value of its one needed key is given."""
    given, here = problem["input"], _models_at(model, location)[0]
    if problem["type"] not in MAPPING_WANTED or not isinstance(given, str) or len(here) != 1:
        return ""
    needed = [field.alias or name for name, field in here[0].model_fields.items() if field.is_required()]
    return f", such as {{{needed[0]}: {_short(given).strip(chr(39))}}}" if len(needed) == 1 else ""


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, (str, int, float, bool)) else "a list" if isinstance(value, list) else "a mapping"
    text = "nothing" if value is None else text
    return text if len(text) <= LONGEST_INPUT else f"{text[:LONGEST_INPUT]}…"


def _near(word: str, known: Iterable[str], *, all_else: bool = False) -> str:
    """`; did you mean 'x'?`, or nothing; with `all_else` everything that is known."""
    known = sorted(known)
    if near := difflib.get_close_matches(word, known, n=1):
        return f"; did you mean {near[0]!r}?"
    return f"; known are {', '.join(known)}" if all_else and known else ""


def _hint(model: type[BaseModel], location: Location) -> str:
    """What to write instead of an unknown key: what it is near to in its place, or the place where it belongs."""
    key = str(location[-1])
    here, others = _models_at(model, location[:-1])
    own = _keys(here)
    for tag, other in others:
        theirs = _keys([other]) - own
        if (meant := key) in theirs or (meant := "".join(difflib.get_close_matches(key, theirs, n=1))):
            return f"; {meant} belongs to {tag}; {_tag(here[0])} has {', '.join(sorted(own - {str(_tag(here[0])).split()[0]}))}"
    if hint := _near(key, own):
        return hint
    places = {name: [place or "the top" for place in where] for name, where in _places(model).items()}
    if key in places:
        return f"; it belongs to {' or '.join(places[key])}" if len(places[key]) <= MOST_PLACES else _known(own)
    near = difflib.get_close_matches(key, sorted(places), n=1)
    return f"; did you mean {near[0]!r}, which belongs to {places[near[0]][0]}?" if near else _known(own)


def _known(own: Iterable[str]) -> str:
    names = sorted(own)
    return f"; known here are {', '.join(names)}" if 0 < len(names) <= MOST_KEYS else ""


def _models_at(model: type[BaseModel], location: Location) -> tuple[list[type[BaseModel]], list[tuple[str, type[BaseModel]]]]:
    """The models that a part of the document can be, and those that another tag would have made it, with `key tag`."""
    here, others = [model], list[tuple[str, type[BaseModel]]]()
    for part in location:
        tagged = [each for each in here if _tag(each, part)]
        if tagged and len(here) > 1:
            others = [(tag, each) for each in here if each not in tagged and (tag := _tag(each))]
            here = tagged
        elif not isinstance(part, int):
            fields = (_fields(each).get(part) for each in here)
            here = [found for field in fields if field is not None for found in _parts(field)] or here
            others = []
    return here, others


def _tag(model: type[BaseModel], wanted: Any = None) -> str | None:
    """`key value` of the field that tells this member of a union from the others."""
    for name, field in model.model_fields.items():
        values: tuple[Any, ...] = getattr(field.annotation, "__args__", ())
        if len(values) == 1 and values[0] == field.default and wanted in (None, field.default):
            return f"{name} {field.default}"
    return None


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _keys(models: Iterable[type[BaseModel]]) -> set[str]:
    return set(chain.from_iterable(_fields(each) for each in models))


def _parts(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in an annotation: in a union, a list, a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for argument in getattr(annotation, "__args__", ()):
        yield from _parts(argument)


def _places(model: type[BaseModel], place: str = "", depth: int = 0) -> dict[str, list[str]]:
    """Every key that the model or one of its parts knows, with the keys of the parts that it stands in."""
    found: dict[str, list[str]] = {}
    for key, annotation in _fields(model).items():
        inner = [_places(part, f"{place}.{key}".lstrip("."), depth + 1) for part in _parts(annotation) if depth < DEEPEST]
        for name, where in [(key, [place]), *chain.from_iterable(each.items() for each in inner)]:
            found[name] = list(dict.fromkeys([*found.get(name, []), *where]))
    return found
