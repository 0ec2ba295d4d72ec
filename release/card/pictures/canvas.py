"""The canvas that all pictures share: one look, fonts that matplotlib brings, and bytes that depend on nothing else.

Every picture is opaque, dark on white: the Hub shows cards on light and on dark pages, and tells a picture nothing of it.
"""

from __future__ import annotations

import importlib.metadata
import io
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Form = Literal["svg", "png"]
FORMS: tuple[Form, ...] = ("svg", "png")
WIDTH = 6.4
"""Inches.  On a page 600 pixels wide a point is then 1.3 pixels, so text of nine points stays readable."""
DOTS_PER_INCH = 200
LIBRARIES = ("matplotlib", "numpy", "pillow")
"""What the bytes of a picture depend on beside its evidence; the lock names their versions."""

# Colours that people with any colour vision tell apart: M. Okabe and K. Ito, "Color Universal Design", 2002.
BLUE, VERMILION, ORANGE, GREEN, PINK = "#0072b2", "#d55e00", "#e69f00", "#009e73", "#cc79a7"
INK, SOFT, PAPER, FAINT = "#1f2328", "#57606a", "#ffffff", "#d8dee4"
LONGEST_LABEL = 30

_STYLE: dict[str, Any] = {
    "backend": "agg",
    "svg.hashsalt": "moe-release",
    "svg.fonttype": "path",  # a reader's machine need not have the font
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.parse_math": False,  # a model's name may hold a dollar sign
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "savefig.dpi": DOTS_PER_INCH,
}


@dataclass(frozen=True)
class Picture:
    """A drawn picture in both forms, and what it shows in words for those who cannot see it."""

    name: str
    alt: str
    files: dict[Form, bytes]


def libraries() -> dict[str, str]:
    """Versions of everything that draws."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def drawn(draw: Callable[[Figure], None], height: float, forms: Iterable[Form] = FORMS) -> dict[Form, bytes]:
    """A figure `WIDTH` by `height` inches, filled by `draw`, as bytes in each form.

    Neither settings nor fonts of this machine count, and no date or version is written into the file.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metadata: dict[Form, Any] = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
    files: dict[Form, bytes] = {}
    style: dict[Any, Any] = {**mpl.rcParamsDefault, **_STYLE}
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)  # shown as a box
        figure = Figure(figsize=(WIDTH, height))
        FigureCanvasAgg(figure)
        draw(figure)
        for form in forms:
            data = io.BytesIO()
            figure.savefig(data, format=form, metadata=metadata[form])
            files[form] = data.getvalue()
    return files


def shortened(label: str) -> str:
    """A label that leaves room for the picture: its middle is left out, since names of variants differ at the end."""
    label = "".join(each if each.isprintable() else " " for each in label)
    if len(label) <= LONGEST_LABEL:
        return label
    half = (LONGEST_LABEL - 1) // 2
    return f"{label[:half]}…{label[-half:]}"


def label_rows(axes: Axes, labels: list[str]) -> None:
    """Name the rows of a chart, first on top; without tick marks."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
