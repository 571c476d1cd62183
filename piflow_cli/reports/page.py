"""A report as one self-contained HTML page, which holds its pictures and fetches nothing."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ..console import format_cell
from ..system.files import replacing_file
from .grids import cell_size, shown
from .plots import figure_svg, png_bytes
from .style import STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

# Inches. A wider figure is not shrunk to a phone's width, where nobody could read it, but scrolled.
WIDEST_PANEL = 5.0
SCROLL = '<div class="scroll" tabindex="0" role="region" aria-label="{}">'


class Page:
    """A page that grows from top to bottom; all text is escaped. Its contents are listed below the title."""

    def __init__(self, title: str, lead: str = "") -> None:
        self.title = title
        self._lead = f'<p class="lead">{escape(lead)}</p>' if lead else ""
        self._headings: list[str] = []
        self._parts: list[str] = []

    def heading(self, text: str) -> None:
        self._headings.append(text)
        self._parts.append(f'<h2 id="part-{len(self._headings)}">{escape(text)}</h2>')

    def text(self, text: str) -> None:
        self._parts.append(f"<p>{escape(text)}</p>")

    def table(
        self,
        rows: Sequence[Mapping[str, object]],
        columns: Sequence[str],
        best: Collection[tuple[int, str]] = (),
    ) -> None:
        """Rows under the titles ``columns``, which are their keys; cells read as they do on the screen.

        ``best``: number of the row and key of the cells that are bold.
        """
        head = "".join(f'<th scope="col">{escape(column.replace("_", " "))}</th>' for column in columns)
        body = "".join(
            "<tr>" + "".join(_cell(row[column], (number, column) in best) for column in columns) + "</tr>"
            for number, row in enumerate(rows)
        )
        self._parts.append(
            f"{SCROLL.format(escape(self._headings[-1] if self._headings else self.title, quote=True))}"
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def plots(self, panels: Sequence[Figure], caption: str) -> None:
        """Figures beside each other, or below each other where there is no room, with a caption."""
        told = escape(caption, quote=True)
        drawn = [figure_svg(figure, told) for figure in panels]
        if max(figure.get_size_inches()[0] for figure in panels) > WIDEST_PANEL:
            inside = "".join(svg.replace('class="plot"', 'class="plot wide"', 1) for svg in drawn)
            self._figure(f"{SCROLL.format(told)}{inside}</div>", caption)
        else:
            self._figure(f'<div class="panels">{"".join(drawn)}</div>', caption)

    def gallery(self, rows: Mapping[str, Sequence[Image]], caption: str, titles: Sequence[str] = ()) -> None:
        """Pictures in a row for each name, of a size at which they can be judged; ``titles``: of the columns."""
        side, columns = cell_size(rows.values()), max(len(images) for images in rows.values())
        cells = [f'<span class="corner"></span>{"".join(_title(titles, place) for place in range(columns))}']
        if not titles:
            cells = []
        for name, images in rows.items():
            cells.append(f'<span class="row">{escape(name)}</span>')
            cells += [
                _image(image, f"{name}, {titles[place] if place < len(titles) else place + 1}")
                for place, image in enumerate(images)
            ]
            cells += ["<span></span>"] * (columns - len(images))
        widths = f"repeat({columns}, {side}px)"
        self._figure(
            f'{SCROLL.format(escape(caption, quote=True))}<div class="gallery" style="--cells: {widths};'
            f' grid-template-columns: max-content {widths}">{"".join(cells)}</div></div>',
            caption,
        )

    def _figure(self, inside: str, caption: str) -> None:
        self._parts.append(f"<figure>{inside}<figcaption>{escape(caption)}</figcaption></figure>")

    def html(self) -> str:
        """The whole page."""
        links = "".join(
            f'<li><a href="#part-{number}">{escape(text)}</a></li>' for number, text in enumerate(self._headings, 1)
        )
        contents = f'<nav aria-label="Contents"><ul>{links}</ul></nav>' if links else ""
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(self.title)}</title>'
            # Without an icon of its own a browser asks for one.
            '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon"'
            f' href="data:,"><style>{STYLE}</style></head>\n<body>\n<h1>{escape(self.title)}</h1>{self._lead}{contents}'
            "\n<main>\n" + "\n".join(self._parts) + "\n</main>\n</body></html>\n"
        )

    def write(self, path: Path) -> None:
        """Write the page aside, then rename it."""
        with replacing_file(path) as aside:
            aside.write_text(self.html(), encoding="utf-8")


def _cell(value: object, best: bool) -> str:
    text = escape(format_cell(value))
    return f"<td><strong>{text}</strong></td>" if best else f"<td>{text}</td>"


def _title(titles: Sequence[str], place: int) -> str:
    return f'<span class="column">{escape(titles[place]) if place < len(titles) else ""}</span>'


def _image(image: Image, told: str) -> str:
    """The picture as it is or shrunk; a small one is enlarged by the page, with edges as they are."""
    kind = ' class="pixelated"' if max(image.size) < cell_size([[image]]) else ""
    source = base64.b64encode(png_bytes(shown(image))).decode("ascii")
    return f'<img{kind} src="data:image/png;base64,{source}" alt="{escape(told, quote=True)}">'
