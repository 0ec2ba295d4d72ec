"""A file of a data set on the Hub in one word: `hf://owner/name@revision/path/file`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

SCHEME = "hf://"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_ADDRESS = re.compile(rf"{SCHEME}(?:datasets/)?(?P<repo>{_NAME}/{_NAME})@(?P<revision>[0-9a-f]{{40}})/(?P<file>[^\s]+)")

HubAddress = Annotated[
    str,
    Field(
        pattern=rf"^{SCHEME}(datasets/)?{_NAME}/{_NAME}@[0-9a-f]{{40}}/\S+$",
        description="A file of a data set on the Hub: hf://owner/name@revision/path/file",
    ),
]


def _inside(path: str) -> str:
    """A path inside a repository.

    Raises:
        ValueError: it is absolute or leaves the repository.
    """
    if path.startswith("/") or "\\" in path or not {"", ".", ".."}.isdisjoint(path.split("/")):
        raise ValueError(f"{path!r} is no path inside a repository, such as data/questions.csv")
    return path


RepoFile = Annotated[str, AfterValidator(_inside)]


def with_hub_address(value: Any, repo: str = "repo") -> Any:
    """A data set's keys, with an address that stands in its place, or in its `path`, taken apart.

    Args:
        value: a string, or a mapping of keys; anything else is left to the model.
        repo: name of the key that holds owner and name.

    Raises:
        ValueError: the address is none, or the keys that it stands for are given too.
    """
    if isinstance(value, str):
        value = {"path": value}
    address = value.get("path") if isinstance(value, Mapping) else None
    if not isinstance(address, str) or not address.startswith(SCHEME):
        return value
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(f"{address!r}: write hf://owner/name@revision/path/file, the revision as 40 hexadecimal digits")
    parts = {repo: match["repo"], "revision": match["revision"], "file": match["file"]}
    if twice := sorted(parts.keys() & value.keys()):
        raise ValueError(f"{address!r} says {twice[0]} already; remove the key")
    return {**{key: each for key, each in value.items() if key != "path"}, **parts}
