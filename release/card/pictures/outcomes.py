"""How the answers of each run came about, before the patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from release.card.pictures.canvas import (
    BLUE,
    FAINT,
    GREEN,
    ORANGE,
    PAPER,
    PINK,
    SOFT,
    VERMILION,
    Picture,
    drawn,
    label_rows,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from release.evaluation.protocol import OutcomeName

STYLES: dict[OutcomeName, tuple[str, str]] = {  # colour and hatch: neither is needed to tell the parts apart
    "valid": (BLUE, ""),
    "truncated": (ORANGE, "//"),
    "empty": (VERMILION, ".."),
    "unparsable": (PINK, "\\\\"),
    "failed": (GREEN, "xx"),
}


@dataclass(frozen=True)
class Breakdown:
    """The number of questions of each outcome in one run."""

    label: str
    outcomes: Mapping[OutcomeName, int]


def outcomes_picture(runs: Sequence[Breakdown]) -> Picture:
    """Draw one bar for each run, in shares of its questions; the counts stand below it."""
    words = "; ".join(f"{run.label}: {_counts(run, ', ')}" for run in runs)
    height = 1.3 + 0.62 * len(runs)
    return Picture("outcomes", f"Bars of the raw outcomes: {words}", drawn(lambda figure: _draw(figure, runs), height))


def _counts(run: Breakdown, separator: str) -> str:
    return separator.join(f"{run.outcomes[name]:,} {name}" for name in STYLES if run.outcomes.get(name))


def _draw(figure: Figure, runs: Sequence[Breakdown]) -> None:
    from matplotlib.patches import Patch

    axes = figure.add_subplot()
    shown = [name for name in STYLES if any(run.outcomes.get(name) for run in runs)]
    for row, run in enumerate(runs):
        left, total = 0.0, sum(run.outcomes.values())
        for name in shown:
            colour, hatch = STYLES[name]
            width = 100 * run.outcomes.get(name, 0) / total
            axes.barh(row, width, 0.42, left=left, color=colour, hatch=hatch, edgecolor=PAPER, linewidth=0.8)
            left += width
        axes.annotate(_counts(run, " · "), (0, row + 0.43), va="center", color=SOFT, fontsize=8.5)
    label_rows(axes, [shortened(run.label) for run in runs])
    axes.set_ylim(len(runs) - 0.3, -0.45)
    axes.set_xlim(0, 100)
    axes.set_title("Raw outcomes")
    axes.set_xlabel("% of the questions")
    axes.spines["bottom"].set_color(FAINT)
    handles = [Patch(facecolor=STYLES[name][0], hatch=STYLES[name][1], edgecolor=PAPER, label=name) for name in shown]
    figure.legend(handles=handles, loc="lower center", ncols=len(handles))
    height = float(figure.get_figheight())
    longest = max(len(shortened(run.label)) for run in runs)
    figure.subplots_adjust(left=0.06 + 0.0125 * longest, right=0.96, top=1 - 0.32 / height, bottom=0.82 / height)
