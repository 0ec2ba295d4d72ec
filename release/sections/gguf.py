"""The quantized files, and how they are compared with the unquantized one."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pruner.errors import InputError
from pruner.wording import counted
from release.documents import Document
from release.gguf.quality import MINIMUM_TOKENS
from release.gguf.shards import all_shards
from release.patterns import Name, RepoId, Revision, Sha256
from release.sections.values import PinnedFile, Size


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


def _projector(source: BaseQuant) -> BaseQuant:
    if len(source.digests) > 1 or "mmproj" not in source.name or not source.name.endswith(".gguf"):
        raise ValueError(f"{source.name}: a projector is one file that llama.cpp passes over as a model: mmproj-….gguf")
    return source


class BaseQuant(Document):
    """A GGUF of the base: a file of a repository on the Hub, or a file beside the manifest; its digest pins it."""

    repo: RepoId | None = Field(None, description="Repository on the Hub, such as ggml-org/gemma-4-26B-A4B-it-GGUF …")
    revision: Revision | None = Field(
        None, description="… at this commit (40 hexadecimal digits): it stays there when the file is replaced on main;"
    )
    file: str | None = Field(None, description="the file's path in it; of a split GGUF that of the first part.")
    path: str | None = Field(None, description="Or a file, relative to the manifest's folder.")
    sha256: Sha256 | list[Sha256] = Field(
        description="What the file must have: by the Hub's listing, or by reading it while it is cut. Of a split GGUF a list, "
        "one for each part, in order."
    )

    @model_validator(mode="after")
    def _one_source(self) -> BaseQuant:
        if (self.repo is None) == (self.path is None):
            raise ValueError("give either repo with file, or path")
        if (self.repo is None) != (self.file is None) or (self.repo is None and self.revision is not None):
            raise ValueError("a GGUF on the Hub needs repo and file, and may have a revision; path stands alone")
        try:
            names = all_shards(str(self.path or self.file))
        except InputError as error:
            raise ValueError(str(error)) from None
        if len(names) != len(self.digests):
            raise ValueError(f"sha256: {names[0]} is {counted(len(names), 'file')}, and {len(self.digests)} digests are given")
        return self

    @property
    def digests(self) -> list[str]:
        """SHA-256 of each of its files, in order."""
        return [self.sha256] if isinstance(self.sha256, str) else self.sha256

    @property
    def files(self) -> dict[str, str]:
        """What cards and locks call each of its files, in order, and its SHA-256."""
        return dict(zip(all_shards(self.label), self.digests, strict=True))

    @property
    def at(self) -> str:
        """The revision at which the Hub is asked."""
        return self.revision or "main"

    @property
    def name(self) -> str:
        """Its file's name, or that of its first part."""
        return PurePosixPath(str(self.path or self.file)).name

    @property
    def label(self) -> str:
        """What cards and locks call it; a split one by its first part."""
        return self.path or f"hf://{self.repo}@{self.at}/{self.file}"


Projector = Annotated[BaseQuant, AfterValidator(_projector)]


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
        None,
        description="A larger quant is split as llama-gguf-split does: cap of a shard in bytes of tensor data, in whole MB.",
    )
    quants: list[Annotated[Quant, BeforeValidator(_quant, json_schema_input_type=Name | Quant)]] = Field(min_length=1)
    mmproj: list[Projector] = Field(
        default=[], description="The base's own projectors (mmproj-….gguf), which are published unchanged beside the quants."
    )
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
        if twice := next((quant.name for quant in self.quants if names.count(quant.name.lower()) > 1), None):
            raise ValueError(f"quants: two are called {twice!r}; remove one, or give it a name of its own")
        if len({each.name for each in self.mmproj}) != len(self.mmproj):
            raise ValueError("mmproj: two files have the same name")
        return self
