"""Which base a drop map was made for, against which base is at hand: two models of one shape take each other's maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pruner.errors import InputError
from pruner.hub_source import COMMIT, HubSource
from pruner.sources import LocalSource, Source


@dataclass(frozen=True)
class BaseIdentity:
    """What is known of a base: its repository or name, and its commit (40 hexadecimal digits)."""

    name: str | None = None
    revision: str | None = None

    @property
    def is_repository(self) -> bool:
        """Whether the name is one of the Hub; others are the names of folders, which say nothing."""
        return self.name is not None and "/" in self.name

    def __str__(self) -> str:
        return f"{self.name or 'a base without a name'}{f'@{self.revision[:12]}' if self.revision else ''}"


def identity_of(source: Source) -> BaseIdentity:
    """What a source shows of itself: a repository, or a snapshot of Hugging Face's cache; a plain folder shows nothing."""
    if isinstance(source, HubSource):
        return BaseIdentity(source.repo, source.commit)
    snapshot = source.snapshot if isinstance(source, LocalSource) else None
    return BaseIdentity(*snapshot) if snapshot and COMMIT.match(snapshot[1]) else BaseIdentity()


def named_base(provenance: Mapping[str, Any]) -> BaseIdentity:
    """What a map's envelope says of its base; a bare map says nothing."""
    named = provenance.get("base_model")
    name, revision = (named.get("name"), named.get("revision")) if isinstance(named, dict) else (None, None)
    return BaseIdentity(
        name if isinstance(name, str) else None, revision if isinstance(revision, str) and COMMIT.match(revision) else None
    )


def require_same_base(named: BaseIdentity, found: BaseIdentity, where: str) -> str | None:
    """Compare the base that the map `where` names with the one at hand.

    Returns:
        None when both show the same commit; otherwise one sentence that says why the base is unchecked.

    Raises:
        InputError: they show that they are not the same.
    """
    if named.revision and found.revision:
        if named.revision == found.revision:
            return None
        other = True
    else:
        other = named.is_repository and found.is_repository and named.name != found.name
    if other:
        raise InputError(
            f"{where}: was made for {named}, the base is {found}; use that base, or, if you mean it, take the names out of the "
            "map with `moe-release map convert --bare`"
        )
    if named == BaseIdentity():
        return f"the base is unchecked: {where} does not say for which base it was made"
    if named.revision is None:
        return f"the base is unchecked: {where} names {named} without a commit"
    return (
        f"the base is unchecked: {where} was made for {named}, and a plain folder does not show what it holds; "
        "--lock compares its digests"
    )
