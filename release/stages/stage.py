"""What a stage is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from release.context import Context


def _never(_context: Context) -> str | None:
    return None


def _always(_context: Context) -> Any:
    return None


def _nothing(_context: Context) -> Sequence[Path]:
    return ()


def _unknown(_context: Context) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True)
class Stage:
    """One step of a release.

    `run` does the work and may return a finding of a few words.  `inputs` is a JSON value of all that determines the output
    (None: runs every time); `outputs` lists the files and folders that it makes; `digests` gives the SHA-256 of those that it
    digested while it wrote them, by path in the work folder, which spares reading them again; `skip` gives a reason not to run,
    or None; `needs` names stages without whose results it cannot run.  `again` writes the outputs once more when the run ends,
    with what only the stages after it brought: how long those took.  `passing` says that only stages which need this one read
    its outputs: deleted, they are made again when one of those has to run.
    """

    name: str
    title: str
    run: Callable[[Context], str | None]
    inputs: Callable[[Context], Any] = _always
    outputs: Callable[[Context], Sequence[Path]] = _nothing
    digests: Callable[[Context], Mapping[str, str]] = _unknown
    skip: Callable[[Context], str | None] = _never
    needs: tuple[str, ...] = ()
    again: Callable[[Context], None] | None = None
    passing: bool = False
