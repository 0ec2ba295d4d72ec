"""What a variant is made of: the base; and earlier builds that it must equal."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from release.documents import Document
from release.patterns import RepoId, Revision, Sha256
from release.sections.values import PinnedFile


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
