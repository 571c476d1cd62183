"""A report as one self-contained HTML page, which holds its pictures and fetches nothing."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ..console import format_cell
from ..system.files import replacing_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

DPI = 110
STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem;
  color: #1c2024; background: #fff; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; border-bottom: 1px solid #d8dce0; }
p.lead { color: #59636e; margin-top: 0; } p { max-width: 48rem; }
div.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6rem 0; }
th, td { padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #eceef0; }
th { color: #59636e; font-weight: 600; }
figure { margin: 1rem 0; } figure img { max-width: 100%; }
figcaption { color: #59636e; font-size: .9rem; max-width: 48rem; }
img.pixelated { image-rendering: pixelated; }
"""


class Page:
    """A page that grows from top to bottom; all text is escaped."""

    def __init__(self, title: str, lead: str = "") -> None:
        self.title = title
        self._parts = [f"<h1>{escape(title)}</h1>"]
        if lead:
            self._parts.append(f'<p class="lead">{escape(lead)}</p>')

    def heading(self, text: str) -> None:
        self._parts.append(f"<h2>{escape(text)}</h2>")

    def text(self, text: str) -> None:
        self._parts.append(f"<p>{escape(text)}</p>")

    def table(self, rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> None:
        """Rows under the titles ``columns``, which are their keys; cells read as they do on the screen."""
        head = "".join(f"<th>{escape(column.replace('_', ' '))}</th>" for column in columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(format_cell(row[column]))}</td>" for column in columns) + "</tr>"
            for row in rows
        )
        self._parts.append(
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        )

    def picture(self, png: bytes, caption: str, *, pixelated: bool = False) -> None:
        """A PNG with a caption; ``pixelated``: enlarged pixels keep their edges."""
        kind = ' class="pixelated"' if pixelated else ""
        source = f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
        self._parts.append(
            f'<figure><img{kind} src="{source}"'
            f' alt="{escape(caption, quote=True)}"><figcaption>{escape(caption)}</figcaption></figure>'
        )

    def html(self) -> str:
        """The whole page."""
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(self.title)}</title>'
            # Without an icon of its own a browser asks for one.
            '<meta name="viewport" content="width=device-width"><link rel="icon"'
            f' href="data:,"><style>{STYLE}</style></head>\n<body>\n' + "\n".join(self._parts) + "\n</body></html>\n"
        )

    def write(self, path: Path) -> None:
        """Write the page aside, then rename it."""
        with replacing_file(path) as aside:
            aside.write_text(self.html(), encoding="utf-8")


def figure_png(figure: Figure) -> bytes:
    """A matplotlib figure as PNG, with texts as they are.

    It is to be made as ``Figure()``, so that no window system is asked.
    """
    from matplotlib.axis import Tick
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    FigureCanvasAgg(figure)
    numbers = {label for tick in figure.findobj(Tick) for label in tick.findobj(Text)}
    for text in figure.findobj(Text):
        if text not in numbers:
            # It may hold a name, in which a dollar is a dollar; numbers beside axes are matplotlib's own mathematics.
            text.set_parse_math(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def png_bytes(image: Image) -> bytes:
    """A picture as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
