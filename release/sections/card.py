"""What a person says about the cards."""

from __future__ import annotations

from pydantic import Field

from release.documents import Document
from release.patterns import Name, RepoId
from release.sections.values import PinnedFile


class Leaderboard(Document):
    """The data set on the Hub whose page lists scores: they are written to `.eval_results/`."""

    dataset: RepoId | None = Field(None, description="Default: the data set of the protocol.")
    task: Name = Field(description="The task's id in that data set's eval.yaml, such as diamond.")


class Card(Document):
    """What a person writes."""

    prose: str | None = Field(None, description="Markdown file beside the manifest; may use {{ claims }}.")
    license: str | None = Field(None, description="Only for a base by path; a base on the Hub brings its own.")
    earlier_maps: dict[str, PinnedFile] = Field(
        default_factory=dict,
        description="Drop maps of earlier variants by name; the card tells how far it agrees.",
    )
    templates: str | None = Field(
        None, description="Folder of your own templates beside the manifest; they may extend the shipped ones of their name."
    )
    leaderboard: Leaderboard | None = None
