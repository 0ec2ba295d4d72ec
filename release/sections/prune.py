"""Which experts go, how that is measured, and how what stays is packed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from pruner.calibration import FieldMap, Unusable, WithoutReasoning
from pruner.ranking_options import CoverageRanking, Gates, Ranking
from pruner.safetensors_format import Metadata
from release.documents import Document
from release.hub_file import HubAddress, RepoFile, with_hub_address
from release.patterns import RepoId, Revision, Sha256
from release.sections.values import PinnedFile, Size


class PinnedMap(PinnedFile):
    """A drop map beside the manifest, or the word that nobody has it."""

    absent: str | None = Field(
        None, description="Why the map is not here; then the variant can be planned and rendered from headers, and not built."
    )


class DataSource(Document):
    """A table of questions: a file beside the manifest, or a file of a data set on the Hub at one commit.

    Instead of its keys, the path or the address alone: `hf://owner/name@revision/path/file`.
    """

    path: str | None = Field(
        None, description="JSON Lines or CSV file, relative to the manifest's folder, or an address on the Hub …"
    )
    repo: RepoId | None = Field(None, description="… or a data set on the Hub, such as Idavidrein/gpqa;")
    revision: Revision | None = Field(None, description="its commit: 40 hexadecimal digits;")
    file: RepoFile | None = Field(None, description="and the file in it, such as gpqa_diamond.csv.")
    sha256: Sha256 | None = Field(None, description="Refuse the file when it has another SHA-256.")

    @model_validator(mode="after")
    def _one_source(self) -> DataSource:
        if (self.path is None) == (self.repo is None):
            raise ValueError("give either path, or repo with revision and file")
        if (self.repo is None, self.repo is None) != (self.revision is None, self.file is None):
            raise ValueError("a data set on the Hub needs repo, revision (40 hexadecimal digits) and file")
        return self

    @property
    def name(self) -> str:
        """What errors and locks call it."""
        return self.path or f"hf://datasets/{self.repo}@{self.revision}/{self.file}"


Dataset = Annotated[DataSource, BeforeValidator(with_hub_address, json_schema_input_type=HubAddress | str | DataSource)]


class Analysis(Document):
    """How expert statistics are measured."""

    dataset: Dataset = Field(description="Calibration questions, as JSON Lines or CSV.")
    fields: FieldMap = Field(default_factory=FieldMap, description="Which column holds what; default: GPQA's columns.")
    max_tokens: int = Field(4096, gt=0, lt=1 << 15, description="Longer questions are truncated, counted and reported.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Precision of the forward pass; auto: the base's own."
    )
    reply_format: str | None = Field(None, description="How reasoning and letter become the reply; default: by the template.")
    without_reasoning: WithoutReasoning = Field(
        "refuse",
        description="Questions whose reasoning is empty: refuse the set, skip and count them, or measure the answer_only.",
    )
    unusable: Unusable = Field(
        "refuse",
        description="Questions that stand twice, lack a text or hold a special token: refuse the set, or skip and count them.",
    )
    gates: Gates = Field(default_factory=Gates, description="Limits that statistics must keep before a map is made of them.")


class Calibration(Document):
    """The questions that a pinned drop map was made from."""

    dataset: Dataset
    fields: FieldMap = Field(default_factory=FieldMap, description="Which column holds what; only the question is read.")


class Prune(Document):
    """Which experts go."""

    experts: int = Field(gt=0, description="Experts that stay in each layer.")
    drop_map: PinnedMap | None = Field(None, description="A pinned drop map …")
    calibration: Calibration | None = Field(
        None,
        description="With a pinned map: what it was made from, if that is known; cards then show the overlap with the exam.",
    )
    analysis: Analysis | None = Field(None, description="… or how to measure one.")
    ranking: Ranking = Field(default_factory=CoverageRanking, description="How statistics become a ranking of experts.")

    @model_validator(mode="after")
    def _one_source(self) -> Prune:
        if (self.drop_map is None) == (self.analysis is None):
            raise ValueError("give either drop_map or analysis")
        if self.drop_map and "ranking" in self.model_fields_set:
            raise ValueError("ranking belongs to an analysis; a pinned drop_map is taken as it is")
        if self.calibration and self.analysis:
            raise ValueError("calibration belongs to a pinned drop_map; an analysis names its dataset itself")
        return self

    @property
    def dataset(self) -> DataSource | None:
        """The questions that the map is made from, or was made from, as far as they are known."""
        named = self.analysis or self.calibration
        return named.dataset if named else None


class Weights(Document):
    """How the pruned weights are packed."""

    max_shard_size: Size = Field(5 << 30, description="Cap of a shard in bytes of tensor data.")
    metadata: Metadata = Field(
        "pt", description="`pt` writes the format key that transformers expects; `none` reproduces plain save_file."
    )
