"""What a quant costs and what it loses: its size against its score and against its divergence from the unquantized model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from release.card.claims import GB, MB
from release.card.pictures.canvas import BLUE, FAINT, VERMILION, Picture, drawn, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = 2.5
ROOM = 0.18
"""Free space around the points, as a share of their range: names stand there."""

SIDES = ((True, True), (False, True), (True, False), (False, False))
"""Where the name of a point may stand: to its right or left, above or below."""


@dataclass(frozen=True)
class QuantPoint:
    """One quant: size in bytes; score as a share of 1 with its 95 % interval, and mean KLD in nats, where measured."""

    name: str
    size: int
    score: float | None = None
    span: tuple[float, float] | None = None
    divergence: float | None = None


def quants_picture(quants: Sequence[QuantPoint]) -> Picture | None:
    """Draw one panel for each measure that at least one quant has; None when there is none."""
    scored = [each for each in quants if each.score is not None]
    diverging = [each for each in quants if each.divergence is not None]
    panels = [(draw, found) for draw, found in ((_draw_scores, scored), (_draw_divergences, diverging)) if found]
    if not panels:
        return None
    files = drawn(lambda figure: _draw(figure, panels), 0.2 + PANEL * len(panels))
    return Picture("quants", _words(scored, diverging), files)


def _words(scored: Sequence[QuantPoint], diverging: Sequence[QuantPoint]) -> str:
    parts = []
    if scored:
        parts.append("score: " + ", ".join(f"{each.name} {100 * (each.score or 0):.2f} %" for each in scored))
    if diverging:
        parts.append("mean KLD: " + ", ".join(f"{each.name} {each.divergence or 0:.4f}" for each in diverging))
    return f"Chart of size against {'; against '.join(parts)}"


Point = tuple[str, float, float]
Panel = tuple["Callable[[Axes, Sequence[QuantPoint], float], list[Point]]", "Sequence[QuantPoint]"]


def _draw(figure: Figure, panels: Sequence[Panel]) -> None:
    largest = max(each.size for _, quants in panels for each in quants)
    unit, name = (GB, "GB") if largest >= GB else (MB, "MB")
    drawn_points: list[tuple[Axes, list[Point]]] = []
    for number, (draw, quants) in enumerate(panels, 1):
        axes = figure.add_subplot(len(panels), 1, number, sharex=drawn_points[0][0] if drawn_points else None)
        drawn_points.append((axes, draw(axes, quants, unit)))
        axes.grid()
        axes.margins(ROOM)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(FAINT)
        axes.set_xlabel(f"size of the file in {name}" if number == len(panels) else "")
    height = float(figure.get_figheight())
    figure.subplots_adjust(left=0.13, right=0.96, top=1 - 0.34 / height, bottom=0.55 / height, hspace=0.34)
    for axes, points in drawn_points:  # where a name finds room is known only now
        _name_points(axes, points)


def _draw_scores(axes: Axes, quants: Sequence[QuantPoint], unit: float) -> list[Point]:
    points = [(each.name, each.size / unit, 100 * (each.score or 0)) for each in quants]
    for each, (_, x, y) in zip(quants, points, strict=True):
        if each.span:
            axes.plot([x, x], [100 * end for end in each.span], "-_", color=BLUE, linewidth=1.6, markersize=8)
        axes.plot(x, y, "o", color=BLUE, markersize=7)
    axes.set_title("Size against score with patch, 95 % intervals")
    axes.set_ylabel("% correct")
    return points


def _draw_divergences(axes: Axes, quants: Sequence[QuantPoint], unit: float) -> list[Point]:
    points = [(each.name, each.size / unit, each.divergence or 0) for each in quants]
    for _, x, y in points:
        axes.plot(x, y, "s", color=VERMILION, markersize=7)
    axes.set_title("Size against divergence from the unquantized model")
    axes.set_ylabel("mean KLD in nats, less is better")
    return points


def _name_points(axes: Axes, points: Sequence[Point]) -> None:
    """Write each name beside its point, on the first of four sides where it covers no other name or point."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = axes.get_figure(root=True)
    canvas: Any = FigureCanvasAgg(figure) if figure else None
    axes.autoscale_view()
    dots = [axes.transData.transform((x, y)) for _, x, y in points]
    taken: list[Any] = []
    for name, x, y in points:
        for (right, up), last in zip(SIDES, (False, False, False, True), strict=True):
            text = axes.annotate(
                shortened(name),
                (x, y),
                xytext=(7 if right else -7, 5 if up else -5),
                textcoords="offset points",
                ha="left" if right else "right",
                va="bottom" if up else "top",
            )
            box = text.get_window_extent(canvas.get_renderer())
            if last or not (any(box.overlaps(other) for other in taken) or any(box.contains(*dot) for dot in dots)):
                taken.append(box)
                break
            text.remove()
