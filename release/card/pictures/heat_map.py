"""Which experts of which layer stay: one drop map, or two over each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pruner.drop_map import DropMap
from release.card.pictures.canvas import FORMS, SOFT, Form, Picture, drawn, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Told apart by lightness too, so that they survive a grey print.
ONE_MAP = {"kept": "#d8dee4", "dropped": "#1f4e79"}
TWO_MAPS = {"kept": "#d8dee4", "dropped by both": "#1f4e79", "dropped only by A": "#d55e00", "dropped only by B": "#f0c05a"}
INCH_PER_LAYER, LEAST_HEIGHT, LARGEST_HEIGHT = 0.12, 0.9, 9.0
MOST_LABELS = 24
MOST_LINES = 2000
"""Cells up to which white lines part them; in a larger map there is no room."""


def experts_picture(drop_map: DropMap, name: str, experts: int) -> Picture:
    """The heat map of a variant."""
    counts = sorted({len(ids) for ids in drop_map.drop.values()})
    spread = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    alt = f"Map of layers by experts: {spread} of {experts:,} experts are dropped in each of {len(drop_map.drop):,} layers"
    return Picture("experts", alt, heat_map([drop_map], [name], experts))


def heat_map(maps: Sequence[DropMap], names: Sequence[str], experts: int, forms: Iterable[Form] = FORMS) -> dict[Form, bytes]:
    """Draw the layers that all maps have, first on top, by the base's experts."""
    layers = [layer for layer in maps[0].drop if all(layer in each.drop for each in maps)]
    height = 1.45 + min(max(INCH_PER_LAYER * len(layers), LEAST_HEIGHT), LARGEST_HEIGHT)
    return drawn(lambda figure: _draw(figure, maps, names, layers, experts), height, forms)


def _draw(figure: Figure, maps: Sequence[DropMap], names: Sequence[str], layers: Sequence[str], experts: int) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    shown = ONE_MAP if len(maps) == 1 else TWO_MAPS
    axes = figure.add_subplot()
    colours = ListedColormap(list(shown.values()))
    axes.pcolormesh(
        [column - 0.5 for column in range(experts + 1)],
        [row - 0.5 for row in range(len(layers) + 1)],
        _cells(maps, layers, experts),
        cmap=colours,
        vmin=0,
        vmax=len(shown) - 1,
        edgecolors="white" if experts * len(layers) <= MOST_LINES else "none",
        linewidth=0.6,
        rasterized=True,  # a picture in the SVG: thousands of cells as shapes would be megabytes
    )
    step = -(-len(layers) // MOST_LABELS)
    axes.set_yticks(range(0, len(layers), step), layers[::step], fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=16, integer=True, steps=[1, 2, 4, 5, 8, 10]))
    axes.tick_params(length=2)
    axes.set_ylim(len(layers) - 0.5, -0.5)
    axes.set(xlabel="expert", ylabel="layer")
    axes.set_title(shortened(names[0]) if len(names) == 1 else f"A: {shortened(names[0])}   B: {shortened(names[1])}")
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    handles = [Patch(facecolor=colour, edgecolor=SOFT, linewidth=0.5, label=label) for label, colour in shown.items()]
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), fontsize=8.5, columnspacing=1.2)
    height = float(figure.get_figheight())
    figure.subplots_adjust(left=0.11, right=0.97, top=1 - 0.34 / height, bottom=0.82 / height)


def _cells(maps: Sequence[DropMap], layers: Sequence[str], experts: int) -> list[list[int]]:
    """[L, E] indices into the colours: 0 kept, 1 dropped (by both), 2 only by the first, 3 only by the second."""
    codes = {(False, False): 0, (True, True): 1, (True, False): 2, (False, True): 3}
    first, last = maps[0], maps[-1]
    return [[codes[expert in first.drop[layer], expert in last.drop[layer]] for expert in range(experts)] for layer in layers]
