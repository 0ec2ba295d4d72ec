"""Scores with their intervals: every row of the results table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pruner.wording import some
from release.card.pictures.canvas import BLUE, FAINT, INK, PAPER, SOFT, VERMILION, Picture, drawn, label_rows, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from release.card.table import Entry

Span = tuple[float, float]
MOST_IN_WORDS = 8


@dataclass(frozen=True)
class Score:
    """One row: shares of 1, with 95 % intervals where they are known.  `raw` is None where only one score is known."""

    label: str
    share: float
    quant: str = ""
    span: Span | None = None
    raw: float | None = None
    raw_span: Span | None = None
    reference: bool = False
    reported: bool = False


def score_of(entry: Entry) -> Score:
    """The score of a row of the results table."""
    if run := entry.evidence:
        return Score(
            entry.label,
            run.patched_share,
            run.quant,
            (run.patched_interval.low, run.patched_interval.high),
            run.raw_share,
            (run.raw_interval.low, run.raw_interval.high),
            reference=entry.reference,
        )
    if foreign := entry.foreign:
        return Score(entry.label, foreign.correct / foreign.total, span=(foreign.interval.low, foreign.interval.high))
    if reported := entry.reported:
        return Score(entry.label, reported.correct / reported.total, reported=True)
    raise ValueError(f"{entry.source}: a row without a score")  # a row is made of one of the three


def results_picture(scores: Sequence[Score]) -> Picture:
    """Draw the scores, first on top."""
    return Picture("results", _words(scores), drawn(lambda figure: _draw(figure, scores), 1.35 + 0.5 * len(scores)))


def _words(scores: Sequence[Score]) -> str:
    shown = [f"{_name(each, ' ')} {100 * each.share:.2f} %{' (reported)' if each.reported else ''}" for each in scores]
    return f"Chart of scores with 95 % intervals: {some(shown, MOST_IN_WORDS)}"


def _name(score: Score, between: str) -> str:
    return between.join(filter(None, (shortened(score.label), score.quant)))


def _draw(figure: Figure, scores: Sequence[Score]) -> None:
    axes = figure.add_subplot()
    for row, score in enumerate(scores):
        if score.reference:
            axes.axvline(100 * score.share, color=SOFT, linestyle=(0, (4, 3)), linewidth=1, zorder=0)
        if score.raw is not None:
            _mark(axes, row + 0.16, score.raw, score.raw_span, colour=SOFT, filled=False, label="raw")
        shift = -0.16 if score.raw is not None else 0.0
        if score.reported:
            axes.plot(100 * score.share, row, "D", color=VERMILION, markerfacecolor=PAPER, markersize=6, label="reported")
        else:
            name = "with patch" if score.raw is not None else "not of this protocol"
            colour = BLUE if score.raw is not None else INK
            _mark(axes, row + shift, score.share, score.span, colour=colour, filled=True, label=name)
        axes.annotate(f"{100 * score.share:.1f} %", (1.015, row), xycoords=("axes fraction", "data"), va="center")
    label_rows(axes, [_name(each, "\n") for each in scores])
    axes.set_title("Correct answers, 95 % intervals")
    axes.set_xlabel("% of the questions" + ("; dashed: the reference" if any(each.reference for each in scores) else ""))
    axes.grid(axis="x")
    axes.spines["bottom"].set_color(FAINT)
    _legend(figure, axes)
    height = float(figure.get_figheight())
    figure.subplots_adjust(left=0.35, right=0.88, top=1 - 0.32 / height, bottom=0.82 / height)


def _mark(axes: Axes, row: float, share: float, span: Span | None, *, colour: str, filled: bool, label: str) -> None:
    if span:
        axes.plot([100 * end for end in span], [row, row], "-|", color=colour, linewidth=1.6, markersize=7)
    face = colour if filled else PAPER
    axes.plot(100 * share, row, "o", color=colour, markerfacecolor=face, markersize=6.5, label=label)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    first = {label: handle for handle, label in reversed(list(zip(handles, labels, strict=True)))}
    order = [name for name in ("with patch", "raw", "not of this protocol", "reported") if name in first]
    figure.legend([first[name] for name in order], order, loc="lower center", ncols=len(order), handletextpad=0.2)
