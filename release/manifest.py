"""Manifests: one YAML file declares a variant; see `moe-release check` and the JSON Schema of `Manifest`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from pruner.errors import InputError
from pruner.files import path_inside, sha256_file
from release.documents import Document, load_document, place_of, place_of_key
from release.near_files import near_file
from release.patterns import Name
from release.sections.base import Base, Prior
from release.sections.card import Card, Leaderboard
from release.sections.evaluation import Compare, Eval
from release.sections.gguf import BaseQuant, Gguf, Imatrix, QualityCheck, Quant
from release.sections.prune import Analysis, DataSource, PinnedMap, Prune, Weights
from release.sections.publish import Publish
from release.sections.values import PinnedFile, parse_size

__all__ = [
    "Analysis",
    "BaseQuant",
    "Compare",
    "DataSource",
    "Eval",
    "Gguf",
    "Imatrix",
    "Leaderboard",
    "LoadedManifest",
    "Manifest",
    "PinnedFile",
    "Prior",
    "Prune",
    "Publish",
    "QualityCheck",
    "Quant",
    "load_manifest",
    "parse_size",
]


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
                made = f"; it makes {', '.join(sorted(names))}" if names else ""
                raise ValueError(f"eval.quants names {quant!r}, which gguf.quants does not make{made}")
        if self.publish and not self.prune:
            raise ValueError("publish needs a prune section: a base is not ours to publish again")
        if self.gguf and self.gguf.cut and not self.prune:
            raise ValueError("gguf.quants: a quant is cut by the drop map, and there is no prune section")
        if self.publish and self.publish.gguf and not self.gguf:
            raise ValueError("publish.gguf names a repository, and there is no gguf section to fill it")
        if self.publish and self.publish.gguf and self.publish.gguf.lower() == self.publish.weights.lower():
            raise ValueError(
                "publish.weights and publish.gguf name one repository; the files of one would replace those of the other: "
                f"give the quants one of their own, such as {self.publish.weights}-GGUF"
            )
        if self.publish and self.publish.supersedes and self.publish.supersedes.gguf and not self.publish.gguf:
            raise ValueError("publish.supersedes.gguf needs publish.gguf, the repository that comes after it")
        if self.card.leaderboard and not self.eval:
            raise ValueError("card.leaderboard lists scores, and there is no eval section to make them")
        if sum(row.reference for row in self.compare) > 1:
            raise ValueError("compare has more than one reference")
        return self


@dataclass(frozen=True)
class LoadedManifest:
    """A manifest, the folder that its paths resolve from, and where the user has the base if it is somewhere else."""

    path: Path
    content: Manifest
    base_copy: Path | None = None
    """The user's own copy of the base; whether it is the base is checked by its digests."""

    @property
    def root(self) -> Path:
        """The manifest's folder; nothing that it names may lie outside."""
        return self.path.parent

    @property
    def local_base(self) -> Path | None:
        """Folder of the base: the user's own copy, else the one beside the manifest; None for a base on the Hub.

        Raises:
            InputError: the manifest names a folder outside its own.
        """
        path = self.content.base.path
        if self.base_copy is not None or path is None:
            return self.base_copy
        try:
            return path_inside(self.root, path)
        except InputError as error:
            where = place_of_key(self.path, "base.path")
            raise InputError(f"{where}: {error}; a base that lies elsewhere is given with --base FOLDER") from None

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
            what = "is a folder, not a file" if path.is_dir() else "does not exist beside the manifest"
            raise InputError(f"{place_of(self.path, pinned.path)}: {pinned.path} {what}{near_file(self.root, pinned.path)}")
        if pinned.sha256 and (found := sha256_file(path)) != pinned.sha256:
            where = place_of(self.path, pinned.path)
            raise InputError(
                f"{where}: {pinned.path} has SHA-256 {found}, the manifest pins {pinned.sha256}; "
                "restore the file, or pin what it is now"
            )
        return path


def load_manifest(path: Path, base_copy: Path | None = None) -> LoadedManifest:
    """Read and validate a manifest; the files that it names are checked when they are used.

    Raises:
        InputError: one line with file:line:column.
    """
    return LoadedManifest(path, load_document(path, Manifest), base_copy)
