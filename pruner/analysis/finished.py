"""Statistics that stand finished already, such as merged shards: taken, or refused with what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pruner.errors import InputError
from pruner.progress import Progress
from pruner.statistics import ExpertStatistics, Header, read_statistics

ELSEWHERE = frozenset({"device", "libraries"})
"""Pins that say where statistics were measured: hours of another machine are not thrown away over them."""


@dataclass(frozen=True)
class Finished:
    """A statistics file that an analysis would write."""

    path: Path
    replaceable: bool = False
    """Whether it may be measured anew: it was made here, from other inputs or before it was damaged."""

    def taken(self, header: Header, progress: Progress) -> ExpertStatistics | None:
        """The statistics, if they are what an analysis with this header would measure; None when it is to be done.

        Raises:
            InputError: somebody put other statistics there, or damaged ones; they are not overwritten.
        """
        if not self.path.exists():
            return None
        try:
            found = read_statistics(self.path)
        except InputError:
            if self.replaceable:
                return None
            raise
        different = _differences(found.header, header)
        if different <= ELSEWHERE:
            if different:
                progress.note(f"{self.path}: taken as measured elsewhere, with another {' and other '.join(sorted(different))}")
            return found
        if self.replaceable:
            return None
        raise InputError(
            f"{self.path}: {_reason(found, header, different)}; merge what belongs here, or remove it to measure anew"
        )


def _differences(found: Header, wanted: Header) -> frozenset[str]:
    return frozenset(name for name in Header.model_fields if getattr(found, name) != getattr(wanted, name))


def _reason(found: ExpertStatistics, wanted: Header, different: frozenset[str]) -> str:
    if different <= {*ELSEWHERE, "positions", "questions"}:
        return f"holds {len(found)} of the {len(wanted.questions)} questions"
    names = sorted(different - ELSEWHERE - {"positions", "questions"})
    return f"was not measured as the manifest says, it differs in {', '.join(names)}"
