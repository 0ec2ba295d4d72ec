"""Manifests: one YAML file declares a variant; see `moe-release check` and the JSON Schema of `Manifest`."""

from __future__ import annotations

# long because it is one schema, which editors and docs/manifest.md get whole, and which reads from top to bottom
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, StringConstraints, model_validator

from pruner.calibration import FieldMap, WithoutReasoning
from pruner.errors import InputError
from pruner.files import path_inside, sha256_file
from pruner.ranking_options import CoverageRanking, Gates, Ranking
from pruner.safetensors_format import Metadata
from release import patterns
from release.documents import Document, load_document, place_of
from release.gguf.quality import MINIMUM_TOKENS
from release.hub_file import HubAddress, RepoFile, with_hub_address
from release.reported import Reported

Sha256 = Annotated[str, StringConstraints(pattern=patterns.SHA256)]
Revision = Annotated[str, StringConstraints(pattern=patterns.REVISION)]
Name = Annotated[str, StringConstraints(pattern=patterns.NAME)]
RepoId = Annotated[str, StringConstraints(pattern=patterns.REPO_ID)]

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def parse_size(value: Any) -> Any:
    """Bytes of a size such as `5GiB`; a number is bytes already."""
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+)\s*([KMG]i?B|B|)", value.strip())
        if not match:
            raise ValueError(f"{value!r} is no size; write for example 5GiB, 4GB or a number of bytes")
        return int(match[1]) * _UNITS[match[2]]
    return value


SizeText = Annotated[str, StringConstraints(pattern=r"^\s*\d+\s*([KMG]i?B|B|)\s*$")]
Size = Annotated[int, BeforeValidator(parse_size, json_schema_input_type=SizeText | PositiveInt), Field(gt=0)]


class PinnedFile(Document):
    """A file beside the manifest, with the digest that it must have."""

    path: str = Field(description="Relative to the manifest's folder, and inside it.")
    sha256: Sha256 | None = Field(None, description="Refuse the file when it has another SHA-256.")


class PinnedMap(PinnedFile):
    """A drop map beside the manifest, or the word that nobody has it."""

    absent: str | None = Field(
        None, description="Why the map is not here; then the variant can be planned and rendered from headers, and not built."
    )


class Prior(Document):
    """An earlier build that this one must equal: a lock or SHA256SUMS file, or a repository on the Hub at one commit."""

    path: str | None = Field(None, description="A lock or SHA256SUMS file, relative to the manifest's folder.")
    sha256: Sha256 | None = Field(None, description="Refuse the file when it has another SHA-256.")
    repo: RepoId | None = Field(
        None, description="Repository on the Hub; its listed digests are compared, nothing is downloaded."
    )
    revision: Revision | None = Field(None, description="Commit of the repository: 40 hexadecimal digits, never a branch.")

    @model_validator(mode="after")
    def _one_source(self) -> Prior:
        if (self.repo is None) == (self.path is None):
            raise ValueError("give either repo and revision, or path")
        if (self.repo is None) != (self.revision is None):
            raise ValueError("a repo needs its revision (40 hexadecimal digits), and a revision its repo")
        if self.repo is not None and self.sha256 is not None:
            raise ValueError("sha256 is the digest of a file; a repo is pinned by its revision")
        return self

    @property
    def label(self) -> str:
        """What reports call it."""
        return self.path or f"hf://{self.repo}@{self.revision}"

    @property
    def file(self) -> PinnedFile | None:
        """The file, unless it is a repository."""
        return PinnedFile(path=self.path, sha256=self.sha256) if self.path is not None else None


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


class Base(Document):
    """The unpruned checkpoint: a repository on the Hub at one commit, or a folder."""

    repo: RepoId | None = Field(None, description="Repository on the Hub.")
    revision: Revision | None = Field(None, description="Commit of the repository: 40 hexadecimal digits, never a branch.")
    path: str | None = Field(None, description="Folder of a checkpoint, relative to the manifest's folder.")
    name: str | None = Field(None, description="What cards call a base given by path; default: the folder's name.")
    headers: PinnedFile | None = Field(
        None,
        description="A description of the base's headers, for `plan` and `card` with --from-headers.  Only with it may the "
        "revision be left out when it is not known; then nothing can be built.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Base:
        if (self.repo is None) == (self.path is None):
            raise ValueError("give either repo and revision, or path")
        if self.revision is not None and self.repo is None:
            raise ValueError("a repo needs its revision (40 hexadecimal digits), and a revision its repo")
        if self.repo is not None and self.revision is None and self.headers is None:
            raise ValueError("a repo needs its revision (40 hexadecimal digits), and a revision its repo")
        return self

    @property
    def label(self) -> str:
        """The name of the base on cards."""
        return self.repo or self.name or Path(self.path or "").name


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


class Imatrix(Document):
    """Importance matrix: calibrated from a text, or a pinned file."""

    text: PinnedFile | None = Field(None, description="Calibration text …")
    file: PinnedFile | None = Field(None, description="… or a finished imatrix.")
    chunks: int = Field(32, gt=0, description="Chunks of the text that are used.")
    context: int = Field(512, gt=0, description="Tokens of a chunk.")
    parse_special: bool = Field(default=False, description="The text holds special tokens, such as turn markers.")

    @model_validator(mode="after")
    def _one_source(self) -> Imatrix:
        if (self.text is None) == (self.file is None):
            raise ValueError("give either text or file")
        return self


class BaseQuant(Document):
    """A GGUF of the base: a file of a repository on the Hub at one commit, or a file beside the manifest."""

    repo: RepoId | None = Field(None, description="Repository on the Hub, such as ggml-org/gemma-4-26B-A4B-it-GGUF …")
    revision: Revision | None = Field(None, description="… at this commit: 40 hexadecimal digits, never a branch;")
    file: str | None = Field(None, description="the file's path in it.")
    path: str | None = Field(None, description="Or a file, relative to the manifest's folder.")
    sha256: Sha256 = Field(description="What the file must have: by the Hub's listing, or by reading it while it is cut.")

    @model_validator(mode="after")
    def _one_source(self) -> BaseQuant:
        if (self.repo is None) == (self.path is None):
            raise ValueError("give either repo with revision and file, or path")
        if (self.repo is None, self.repo is None) != (self.revision is None, self.file is None):
            raise ValueError("a GGUF on the Hub needs repo, revision (40 hexadecimal digits) and file")
        return self

    @property
    def label(self) -> str:
        """What cards and locks call it."""
        return self.path or f"hf://{self.repo}@{self.revision}/{self.file}"


class Quant(Document):
    """One GGUF to publish: quantized from the pruned weights, or cut from the base's GGUF of the same type."""

    name: Name
    type: str | None = Field(None, description="A type that llama-quantize knows …")
    from_: BaseQuant | None = Field(None, alias="from", description="… or the GGUF of the base to cut this one from.")
    tensor_types: PinnedFile | None = Field(None, description="Types per tensor, for llama-quantize --tensor-type-file.")

    @model_validator(mode="after")
    def _one_source(self) -> Quant:
        if (self.type is None) == (self.from_ is None):
            raise ValueError("give either type (to quantize) or from (to cut the base's GGUF)")
        if self.from_ is not None and self.tensor_types is not None:
            raise ValueError("tensor_types is for llama-quantize; a quant that is cut has the types of the base's GGUF")
        return self


def _quant(value: Any) -> Any:
    return {"name": value, "type": value} if isinstance(value, str) else value


class QualityCheck(Document):
    """How quants are compared with the unquantized GGUF: the text that both predict, and how much of it."""

    text: PinnedFile = Field(description="A text that neither map nor imatrix was made from.")
    chunks: int = Field(100, gt=0, description="Chunks of the text that are used, at most.")
    context: int = Field(512, ge=16, description="Tokens of a chunk; the second half of them is scored.")

    @model_validator(mode="after")
    def _enough(self) -> QualityCheck:
        if self.chunks * (self.context - 1 - self.context // 2) < MINIMUM_TOKENS:
            raise ValueError(f"chunks × half the context is under {MINIMUM_TOKENS} tokens, too few for statistics")
        return self


class Gguf(Document):
    """The quantized files."""

    outtype: Literal["bf16", "f16", "f32"] = "bf16"
    imatrix: Imatrix | None = None
    threads: int = Field(2, gt=0, description="Threads of llama.cpp's tools; results do not depend on them.")
    memory: Size | None = Field(
        None, description="Memory for quantizing; quants run side by side as far as it reaches. Default: half of what is free."
    )
    max_shard_size: Annotated[Size, Field(ge=10**6)] | None = Field(
        None, description="A larger quant is split by llama-gguf-split: cap of a shard in bytes of tensor data, in whole MB."
    )
    quants: list[Annotated[Quant, BeforeValidator(_quant, json_schema_input_type=Name | Quant)]] = Field(min_length=1)
    quality: QualityCheck | None = Field(None, description="Measure perplexity and KL divergence of every quant.")

    @property
    def quantized(self) -> list[Quant]:
        """Quants that llama.cpp makes."""
        return [quant for quant in self.quants if quant.from_ is None]

    @property
    def cut(self) -> dict[str, BaseQuant]:
        """What the others are cut from, by their names."""
        return {quant.name: quant.from_ for quant in self.quants if quant.from_ is not None}

    @model_validator(mode="after")
    def _distinct(self) -> Gguf:
        if self.imatrix and not self.quantized:
            raise ValueError("imatrix: every quant is cut from the base's GGUF, so none would use it")
        names = [quant.name.lower() for quant in self.quants]
        if len(set(names)) != len(names):
            raise ValueError("two quants have the same name")
        return self


class Eval(Document):
    """Which quants are evaluated, under which protocol."""

    protocol: str = Field(description="Path of the protocol, relative to the manifest's folder.")
    quants: list[Name] = Field(min_length=1)


class LmEvalFiles(Document):
    """The two files of one task that lm-eval wrote with --log_samples."""

    samples: PinnedFile = Field(description="Its samples_*.jsonl: the answers, from which the score is counted.")
    results: PinnedFile = Field(description="Its results_*.json: settings, and the score that must follow from the samples.")


class Compare(Document):
    """A row of the results table: evidence that we hold, an output of lm-eval, or a score that someone else published."""

    evidence: PinnedFile | None = None
    lm_eval: LmEvalFiles | None = Field(None, description="What an lm-eval run wrote.")
    label: str
    reference: bool = Field(default=False, description="The row that differences are taken from.")
    reported: Reported | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Compare:
        if [self.evidence, self.lm_eval, self.reported].count(None) != 2:  # noqa: PLR2004  # one of three
            raise ValueError("give either evidence, lm_eval or reported")
        if self.reference and self.evidence is None:
            raise ValueError("a reference needs evidence: differences are taken question by question")
        return self

    @property
    def files(self) -> tuple[PinnedFile, ...]:
        """Every file that the row is made of."""
        foreign = (self.lm_eval.samples, self.lm_eval.results) if self.lm_eval else ()
        return (self.evidence,) if self.evidence else foreign


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


class Manifest(Document):
    """A variant, declared."""

    schema_: Literal["moe-release/v1"] = Field(alias="schema")
    name: Name
    base: Base
    prune: Prune | None = Field(None, description="Leave out to release or evaluate the base itself.")
    weights: Weights = Field(default_factory=Weights)
    gguf: Gguf | None = None
    eval: Eval | None = None
    compare: list[Compare] = Field(default_factory=list)
    prior: list[Prior] = Field(default_factory=list, description="Earlier builds that this one must equal.")
    card: Card = Field(default_factory=Card)
    publish: Publish | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        names = {quant.name for quant in self.gguf.quants} if self.gguf else set()
        for quant in self.eval.quants if self.eval else ():
            if quant not in names:
                raise ValueError(f"eval.quants names {quant!r}, which gguf.quants does not make")
        if self.publish and not self.prune:
            raise ValueError("publish needs a prune section: a base is not ours to publish again")
        if self.gguf and self.gguf.cut and not self.prune:
            raise ValueError("gguf.quants: a quant is cut by the drop map, and there is no prune section")
        if self.publish and self.publish.gguf and not self.gguf:
            raise ValueError("publish.gguf names a repository, and there is no gguf section to fill it")
        if self.publish and self.publish.supersedes and self.publish.supersedes.gguf and not self.publish.gguf:
            raise ValueError("publish.supersedes.gguf needs publish.gguf, the repository that comes after it")
        if self.card.leaderboard and not self.eval:
            raise ValueError("card.leaderboard lists scores, and there is no eval section to make them")
        if sum(row.reference for row in self.compare) > 1:
            raise ValueError("compare has more than one reference")
        return self


@dataclass(frozen=True)
class LoadedManifest:
    """A manifest and the folder that its paths resolve from."""

    path: Path
    content: Manifest

    @property
    def root(self) -> Path:
        """The manifest's folder; nothing that it names may lie outside."""
        return self.path.parent

    @property
    def lock_path(self) -> Path:
        """Where the lock of the variant stands: `<name>.lock.json`; in a published `reproduce/`, `lock.json`."""
        published = self.root / "lock.json"
        if self.path.name == "manifest.yaml" and published.exists():
            return published
        return self.root / f"{self.content.name}.lock.json"

    def file(self, pinned: PinnedFile) -> Path:
        """Path of a pinned file, its digest checked.

        Raises:
            InputError: it is missing, outside the folder, or has another digest.
        """
        path = path_inside(self.root, pinned.path)
        if not path.is_file() and isinstance(pinned, PinnedMap) and pinned.absent:
            raise InputError(
                f"{self.path}: the drop map {pinned.path} is absent: {pinned.absent}; nothing can be built without it, "
                "--from-headers plans and renders"
            )
        if not path.is_file():
            raise InputError(f"{place_of(self.path, pinned.path)}: {pinned.path} does not exist beside the manifest")
        if pinned.sha256 and (found := sha256_file(path)) != pinned.sha256:
            where = place_of(self.path, pinned.path)
            raise InputError(f"{where}: {pinned.path} has SHA-256 {found}, the manifest pins {pinned.sha256}")
        return path


def load_manifest(path: Path) -> LoadedManifest:
    """Read and validate a manifest; the files that it names are checked when they are used.

    Raises:
        InputError: one line with file:line:column.
    """
    return LoadedManifest(path, load_document(path, Manifest))
