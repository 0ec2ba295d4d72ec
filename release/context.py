"""The one typed state that all stages share."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pruner.errors import CheckFailedError, InputError
from pruner.progress import SILENT, Progress
from release.gguf.names import quant_file
from release.hub.endpoint import HubTarget
from release.manifest import Analysis, Eval, Gguf, LoadedManifest, Manifest, Prune, Publish
from release.records import Record, read_record

if TYPE_CHECKING:
    from pruner.checkpoint import Checkpoint
    from pruner.sources import Source
    from release.gguf.golden import SelfTest
    from release.gguf.toolchain import Toolchain

Section = TypeVar("Section")


@dataclass(frozen=True)
class Options:
    """What the command line says about a run."""

    skip: frozenset[str] = frozenset()
    until: str | None = None
    hub: HubTarget = field(default_factory=HubTarget)
    update_lock: bool = False
    replace_card: bool = False
    """Overwrite a published card although somebody changed it outside of its hand-written parts."""
    llama_cpp: Path | None = None
    workers: int | None = None
    servers: int = 1
    server_urls: tuple[str, ...] = ()
    limit: int | None = None
    fold: tuple[int, int] | None = None
    """Index and count: only the questions of this fold are asked, which the drop map was made without."""
    pull_request: bool = False
    sign: Path | None = None
    """Private key that signs the weights repository as a whole."""
    prune_remote: bool = False
    rehearsal: bool = False
    """Nothing outside the work folder is written, not even a first lock."""
    from_headers: bool = False
    """Plan and render from the base's headers; nothing can be built then."""
    memory: int | None = None
    """Bytes for quants that run side by side; the manifest's or half of the free memory when None."""
    offload: bool = False
    """Measure the base one decoder layer at a time; changes memory and time, never the numbers."""


@dataclass
class Context:
    """A release in progress: the manifest, where it works, and what earlier stages found.

    `planned` names the stages that this run will reach; `notes` holds findings for the summary.
    """

    loaded: LoadedManifest
    work: Path
    options: Options = field(default_factory=Options)
    progress: Progress = SILENT
    planned: frozenset[str] = frozenset()
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def manifest(self) -> Manifest:
        """The manifest's content."""
        return self.loaded.content

    @property
    def prune(self) -> Prune:
        """The manifest's prune section; stages that need it are skipped without it."""
        return self._section(self.manifest.prune, "prune")

    @property
    def analysis(self) -> Analysis:
        """How the manifest measures experts; stages that need it are skipped when it pins a map."""
        return self._section(self.prune.analysis, "prune.analysis")

    @property
    def gguf(self) -> Gguf:
        """The manifest's gguf section; stages that need it are skipped without it."""
        return self._section(self.manifest.gguf, "gguf")

    @property
    def eval(self) -> Eval:
        """The manifest's eval section; stages that need it are skipped without it."""
        return self._section(self.manifest.eval, "eval")

    @property
    def publish(self) -> Publish:
        """The manifest's publish section; stages that need it are skipped without it."""
        return self._section(self.manifest.publish, "publish")

    def _section(self, value: Section | None, name: str) -> Section:
        if value is None:
            raise InputError(f"{self.loaded.path}: has no {name} section, which this step needs")
        return value

    @property
    def logs(self) -> Path:
        """Folder for the logs of child processes."""
        return self.work / "logs"

    @cached_property
    def toolchain(self) -> Toolchain:
        """The llama.cpp build of this run; found once."""
        from release.gguf.toolchain import find_toolchain

        return find_toolchain(self.options.llama_cpp)

    @cached_property
    def self_test(self) -> SelfTest:
        """Whether the toolchain is bit-exact; made once for a toolchain, then remembered in the user's cache."""
        from release.gguf.golden import self_test

        return self_test(self.toolchain, progress=self.progress)

    @property
    def uses_llama_cpp(self) -> bool:
        """Whether anything here is made or run by llama.cpp; cutting the base's GGUFs is not."""
        gguf = self.manifest.gguf
        return gguf is not None and bool(gguf.quantized or gguf.quality or self.manifest.eval)

    def toolchain_inputs(self) -> list[Any]:
        """What of the toolchain determines bytes, for fingerprints: never compared between machines."""
        return [self.toolchain.identity(), self.toolchain.compiler, dict(self.toolchain.binaries)]

    @cached_property
    def base_folder(self) -> Path:
        """Local folder of the base, downloaded when it is on the Hub."""
        from release.base import base_folder

        return base_folder(self.loaded)

    @cached_property
    def base_source(self) -> Source:
        """Where the build reads the base: its folder, or its repository by ranges."""
        from release.base import base_source, header_source

        return header_source(self.loaded) if self.options.from_headers else base_source(self.loaded)

    @cached_property
    def base(self) -> Checkpoint:
        """The base checkpoint, headers only."""
        from pruner.checkpoint import open_checkpoint

        return open_checkpoint(self.base_source)

    @property
    def weights_folder(self) -> Path:
        """The pruned weights; the base itself when the manifest prunes nothing."""
        return self.work / "weights" if self.manifest.prune else self.base_folder

    def gguf_file(self, quant: str) -> Path:
        """Path of a quant."""
        return self.work / "gguf" / quant_file(self.manifest.name, quant)

    def record(self, stage: str) -> Record:
        """The record of an earlier stage.

        Raises:
            CheckFailedError: it has not completed.
        """
        record = read_record(self.work, stage)
        if record is None:
            raise CheckFailedError(f"{stage} has not been run in {self.work}; run `moe-release cut {self.loaded.path}`")
        return record

    def made_by(self, stage: str) -> str:
        """Digest of everything that an earlier stage made, for fingerprints."""
        return self.record(stage).digest
