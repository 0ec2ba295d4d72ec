"""The YAML block at the head of a model card: reading it, and what the Hub would refuse in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from release.hub.license_ids import odd_license

FRONT_MATTER = re.compile(r"\A(?:\ufeff)?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
LARGEST = 1 << 20
TEXTS = ("license_name", "license_link", "pipeline_tag", "library_name", "base_model_relation", "new_version")
LISTS = ("base_model", "datasets", "language", "license", "metrics", "tags")


@dataclass(frozen=True)
class CardMetadata:
    """A card's metadata, with what is wrong (`errors`) and what deserves a look (`warnings`)."""

    data: dict[str, Any] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def card_metadata(content: str) -> CardMetadata:
    """Read and check the metadata of a card, given as the whole README.md."""
    import yaml

    match = FRONT_MATTER.match(content)
    if match is None or not match.group(1).strip():
        return CardMetadata(warnings=("empty or missing yaml metadata in repo card",))
    if len(match.group(1)) > LARGEST:
        return CardMetadata(errors=("the metadata is larger than 1 MiB",))
    try:
        value = _load(match.group(1))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 2 if error.problem_mark else 1
        return CardMetadata(errors=(f"README.md:{line}: {error.problem or error.context}",))
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        return CardMetadata(errors=(f"README.md: the metadata is not YAML: {error}",))
    if not isinstance(value, dict):
        return CardMetadata(errors=("README.md:2: the metadata must be a mapping",))
    return CardMetadata(data=_jsonable(value), errors=tuple(_errors(value)), warnings=tuple(_warnings(value)))


def _load(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses aliases (a small text could become a huge value) and keys that stand twice, as the Hub does."""

        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            if self.check_event(yaml.AliasEvent):
                mark = self.get_mark()
                raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
            seen: set[str] = set()
            for key, _ in node.value:
                if str(key.value) in seen:
                    raise yaml.MarkedYAMLError(problem=f"key {key.value!r} stands twice", problem_mark=key.start_mark)
                seen.add(str(key.value))
            return super().construct_mapping(node, deep=deep)

        def construct_yaml_int(self, node: yaml.ScalarNode) -> Any:
            """YAML 1.1 reads 1:30 as ninety, in quadratic time; here it stays text."""
            return self.construct_scalar(node) if ":" in node.value else super().construct_yaml_int(node)

    Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)
    return yaml.load(text, Loader)  # noqa: S506  # a SafeLoader


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_jsonable(item) for item in value]
    return value.isoformat() if isinstance(value, date) else value


def _errors(data: dict[Any, Any]) -> Iterator[str]:
    for key in TEXTS:
        if key in data and not isinstance(data[key], str):
            yield f'"{key}" must be a text'
    for key in LISTS:
        if key in data:
            items = data[key] if isinstance(data[key], list) else [data[key]]
            if not all(isinstance(item, str) for item in items):
                yield f'"{key}" must be a text or a list of texts'
    if "model-index" in data:
        yield from _index_errors(data["model-index"])


def _warnings(data: dict[Any, Any]) -> Iterator[str]:
    """The real Hub refuses a license id that it does not know; it knows those of today, and not only those of our list."""
    stated = data.get("license")
    ids = [each for each in (stated if isinstance(stated, list) else [stated]) if isinstance(each, str)]
    yield from (f'"license": {odd}' for odd in map(odd_license, ids) if odd)


def _index_errors(index: Any) -> Iterator[str]:
    if not isinstance(index, list) or not all(isinstance(model, dict) for model in index):
        yield '"model-index" must be a list of mappings'
        return
    for number, model in enumerate(index):
        place = f'"model-index[{number}]'
        if not isinstance(model.get("name"), str):
            yield f'{place}.name" is required'
        results = model.get("results")
        if not isinstance(results, list):
            yield f'{place}.results" must be a list'
            continue
        for position, result in enumerate(results):
            yield from _result_errors(f"{place}.results[{position}]", result)


def _result_errors(place: str, result: Any) -> Iterator[str]:
    if not isinstance(result, dict):
        yield f'{place}" must be a mapping'
        return
    for key in ("task", "dataset"):
        if not isinstance(result.get(key), dict) or not isinstance(result[key].get("type"), str):
            yield f'{place}.{key}.type" is required'
    metrics = result.get("metrics")
    if not isinstance(metrics, list) or not metrics:
        yield f'{place}.metrics" must be a list that is not empty'
    elif any(not isinstance(metric, dict) or metric.get("value") is None or not metric.get("type") for metric in metrics):
        yield f'{place}.metrics" needs a type and a value each'
