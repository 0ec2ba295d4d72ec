"""Verdicts: what verification found of each part of a release."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from pruner.errors import CheckFailedError, InputError, UnavailableError


class Verdict(StrEnum):
    """GOOD: checked, and it holds.  BAD: checked, and it does not.  UNKNOWN: something that the check needs was missing."""

    GOOD = "GOOD"
    BAD = "BAD"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True)
class Finding:
    """The verdict on one part, in words; `items` are its pieces (files, quants, statements) with what was found of each."""

    part: str
    verdict: Verdict
    reason: str
    items: tuple[tuple[str, Verdict, str], ...] = ()


def worst(verdicts: list[Verdict]) -> Verdict:
    """BAD before UNKNOWN before GOOD; of nothing, UNKNOWN."""
    for verdict in (Verdict.BAD, Verdict.UNKNOWN):
        if verdict in verdicts:
            return verdict
    return Verdict.GOOD if verdicts else Verdict.UNKNOWN


UNUSABLE = (ValueError, TypeError, LookupError, ArithmeticError, RecursionError, MemoryError)
"""What a spoiled file of a stranger's release raises where nobody thought of it."""


def unusable(error: Exception) -> str:
    """The reason of a BAD that nobody foresaw: the verdicts on everything else must not be lost with it."""
    return f"cannot be used: {type(error).__name__}: {error}"


@dataclass
class Pieces:
    """Pieces of a part while they are checked; paths below `folder`, a temporary one, are shown without it."""

    part: str
    folder: Path | None = None
    items: list[tuple[str, Verdict, str]] = field(default_factory=list)

    def add(self, name: str, verdict: Verdict, reason: str = "") -> None:
        """Note what was found of one piece."""
        self.items.append((name, verdict, reason))

    @contextmanager
    def checking(self, name: str) -> Iterator[None]:
        """Turn the errors of a check into the verdict on its piece: a refusal is BAD, what cannot be had is UNKNOWN."""
        try:
            yield
        except (CheckFailedError, InputError) as error:
            self.add(name, Verdict.BAD, self._shown(error).removeprefix(f"{name}: "))
        except UnavailableError as error:
            self.add(name, Verdict.UNKNOWN, self._shown(error))
        except UNUSABLE as error:
            self.add(name, Verdict.BAD, unusable(error))

    def _shown(self, error: Exception) -> str:
        return str(error).replace(f"{self.folder}/", "") if self.folder else str(error)

    def finding(self, good: str) -> Finding:
        """The verdict on the part: its worst piece speaks for it, `good` when all hold."""
        verdict = worst([each for _, each, _ in self.items])
        first = next(((name, reason) for name, each, reason in self.items if each is verdict), None)
        if verdict is Verdict.GOOD or first is None:
            return Finding(self.part, verdict, good, tuple(self.items))
        others = sum(each is verdict for _, each, _ in self.items) - 1
        more = f" (and {others} more)" if others else ""
        return Finding(self.part, verdict, f"{first[0]}: {first[1]}{more}", tuple(self.items))


@dataclass(frozen=True)
class Verification:
    """What was found of a release at one commit."""

    target: str
    commit: str
    findings: tuple[Finding, ...]
    absent: tuple[str, ...] = ()
    """Parts that the release need not have and has not; they do not count."""

    @property
    def verdict(self) -> Verdict:
        """The worst of its parts."""
        return worst([finding.verdict for finding in self.findings])

    @property
    def exit_code(self) -> int:
        """1 when a part is BAD, 3 when one could not be checked, else 0."""
        return {Verdict.GOOD: 0, Verdict.BAD: CheckFailedError.exit_code, Verdict.UNKNOWN: UnavailableError.exit_code}[
            self.verdict
        ]

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "target": self.target,
            "commit": self.commit,
            "verdict": self.verdict,
            "parts": [
                {
                    "part": finding.part,
                    "verdict": finding.verdict,
                    "reason": finding.reason,
                    "items": [{"name": name, "verdict": verdict, "reason": reason} for name, verdict, reason in finding.items],
                }
                for finding in self.findings
            ],
            "absent": list(self.absent),
        }

    def text(self) -> str:
        """One line a part; the pieces of a part that is not GOOD below it."""
        lines = [f"{self.target} at {self.commit[:12]}"]
        for finding in self.findings:
            lines.append(f"{finding.verdict:<8}{finding.part:<14}{finding.reason}")
            if finding.verdict is not Verdict.GOOD and len(finding.items) > 1:
                lines += [f"  {verdict:<8}{name}  {reason}".rstrip() for name, verdict, reason in finding.items]
        lines += [f"{part}: none" for part in self.absent]
        return "\n".join([*lines, f"{self.verdict}"])
