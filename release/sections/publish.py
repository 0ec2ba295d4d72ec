"""Where the release goes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from release.documents import Document
from release.patterns import Name, RepoId
from release.sections.values import PinnedFile


class Supersedes(Document):
    """Older repositories whose cards are to name these as their new version."""

    weights: RepoId | None = None
    gguf: RepoId | None = None


def _supersedes(value: Any) -> Any:
    return {"weights": value} if isinstance(value, str) else value


class Publish(Document):
    """Where the release goes."""

    weights: RepoId
    gguf: RepoId | None = None
    tag: Name | None = None
    private: bool = Field(default=True, description="Stay private until `promote`; else public once everything was read back.")
    gated: Literal[False, "auto", "manual"] | None = Field(
        None, description="Ask readers for their agreement; leave out to keep what the repository has."
    )
    collection: Annotated[str, StringConstraints(min_length=1, max_length=160)] | None = Field(
        None, description="Collection that public repositories join: a slug (org/title-0123…), or a title, made if needed."
    )
    supersedes: Annotated[Supersedes, BeforeValidator(_supersedes, json_schema_input_type=RepoId | Supersedes)] | None = Field(
        None, description="Older repositories: once ours are public, a pull request writes new_version on each card."
    )
    rebuilders: PinnedFile | None = Field(
        None, description="A JSON object of names and public keys (PEM): whose statements `verify` and the card count."
    )
    question: str = Field("Say hello.", description="What the published quant is asked when it was loaded back from the Hub.")
