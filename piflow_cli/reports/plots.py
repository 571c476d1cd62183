"""Plots: as SVG that takes the colours of the page around it, as PNG, and with numbers on every axis."""

from __future__ import annotations

import io
import math
import re
from typing import TYPE_CHECKING

from PIL import Image

from .style import DARKER, TONES

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

DPI = 110
# Units of an SVG's width in an inch; a page shows no plot larger.
UNITS = 72
# Steps within a power of ten: the first that give an axis enough numbers.
STEPS = ((1,), (1, 3), (1, 2, 5))
FEWEST, MOST = 3, 7


def figure_png(*panels: Figure) -> bytes:
    """Figures side by side as one PNG, with texts as they are.

    They are to be made as ``Figure()``, so that no window system is asked.
    """
    pictures = [_png(figure) for figure in panels]
    width, height = sum(picture.width for picture in pictures), max(picture.height for picture in pictures)
    whole, left = Image.new("RGB", (width, height), "white"), 0
    for picture in pictures:
        whole.paste(picture, (left, 0))
        left += picture.width
    return png_bytes(whole)


def figure_svg(figure: Figure, label: str) -> str:
    """A figure as an ``<svg>`` for a page: its greys are the page's, its background is none, its texts are texts.

    ``label``: what it shows, escaped, for those who do not see it.
    """
    from matplotlib import rc_context

    _as_they_are(figure)
    buffer = io.StringIO()
    # Without a salt of its own every page would differ from the last.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "piflow"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    inside = text[text.index(">", text.index("<svg ")) + 1 :]
    inside = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", inside, flags=re.DOTALL)
    # Names of groups would be there several times on a page.
    inside = re.sub(r"<g id=\"[^\"]*\"", "<g", inside)
    for colour, name in {**TONES, **{colour: f"c{colour[1:]}" for colour in DARKER}}.items():
        inside = inside.replace(f": {colour}", f": var(--{name})")
    width, height = (side * UNITS for side in figure.get_size_inches())
    return (
        f'<svg class="plot" role="img" aria-label="{label}" viewBox="0 0 {width:g} {height:g}"'
        f' style="--width: {width:g}px">{inside}'
    )


def log_numbers(axis: Axis) -> None:
    """A logarithmic axis with a few plain numbers beside it, however little of a power of ten it spans."""
    (axis.axes.set_yscale if axis is axis.axes.yaxis else axis.axes.set_xscale)("log")
    low, high = sorted(axis.get_view_interval())
    ticks = log_ticks(low, high)
    axis.set_ticks(ticks, labels=[f"{tick:.6g}" for tick in ticks])
    axis.set_ticks([], minor=True)


def log_ticks(low: float, high: float) -> list[float]:
    """Three to seven numbers from ``low`` > 0 to ``high``, round ones where there are enough."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in STEPS:
        ticks = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(ticks) >= FEWEST:
            return ticks[:: -(-len(ticks) // MOST)]
    return _even_ticks(low, high)


def _even_ticks(low: float, high: float) -> list[float]:
    """Whole multiples of the largest round step that gives enough of them."""
    power = math.floor(math.log10(high - low))
    for step in (digit * 10.0**lower for lower in (power, power - 1) for digit in (5, 2, 1)):
        first, last = math.ceil(low / step), math.floor(high / step)
        if last - first + 1 >= FEWEST:
            break
    return [number * step for number in range(first, last + 1)]


def png_bytes(image: Image.Image) -> bytes:
    """A picture as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _png(figure: Figure) -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    _as_they_are(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return Image.open(buffer).convert("RGB")


def _as_they_are(figure: Figure) -> None:
    """Let a dollar in a name be a dollar; numbers beside axes are matplotlib's own mathematics."""
    from matplotlib.axis import Tick
    from matplotlib.text import Text

    numbers = {label for tick in figure.findobj(Tick) for label in tick.findobj(Text)}
    for text in figure.findobj(Text):
        if text not in numbers:
            text.set_parse_math(False)
