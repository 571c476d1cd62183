"""Grids in which models stand below each other: a title on each row and column, gaps, cells large enough to judge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

# Pixels. A picture of people and things is judged at 256 to 512; digits of 8 x 8 are told apart at 64.
SMALL, SMALLEST_CELL, REAL_CELL, LARGEST_CELL = 64, 64, 256, 512
GAP, MARGIN, TEXT = 6, 8, 13
PAPER, INK = "white", "#202020"
LONGEST_LINES = 4


def cell_size(rows: Iterable[Sequence[Image.Image]]) -> int:
    """The side of a square cell for the largest of some pictures: a whole multiple of its longer side, or a part."""
    longest = max(max(image.size) for images in rows for image in images)
    if longest > LARGEST_CELL:
        return -(-longest // -(-longest // LARGEST_CELL))
    aim = SMALLEST_CELL if longest < SMALL else REAL_CELL
    return longest * -(-aim // longest)


def shown(image: Image.Image) -> Image.Image:
    """A picture that is no larger than the largest cell, shrunk by a whole factor."""
    return image.reduce(divisor) if (divisor := -(-max(image.size) // LARGEST_CELL)) > 1 else image


def rows_by_titles(
    rows: Mapping[str, Sequence[Image.Image]], titles: Mapping[str, Sequence[str]]
) -> dict[tuple[str, ...], dict[str, Sequence[Image.Image]]]:
    """``rows`` by the titles of their pictures, in the order in which each comes first; ``titles``: of each row."""
    groups: dict[tuple[str, ...], dict[str, Sequence[Image.Image]]] = {}
    for name, images in rows.items():
        groups.setdefault(tuple(titles.get(name, ())), {})[name] = images
    return groups


def titled_grid(groups: Mapping[tuple[str, ...], Mapping[str, Sequence[Image.Image]]]) -> Image.Image:
    """The :func:`comparison_grid` of each of the groups that :func:`rows_by_titles` made, below each other."""
    grids = [comparison_grid(rows, titles) for titles, rows in groups.items()]
    whole = Image.new("RGB", (max(grid.width for grid in grids), sum(grid.height for grid in grids)), PAPER)
    top = 0
    for grid in grids:
        whole.paste(grid, (0, top))
        top += grid.height
    return whole


def comparison_grid(rows: Mapping[str, Sequence[Image.Image]], titles: Sequence[str] = ()) -> Image.Image:
    """One RGB picture: a row of pictures for each name, which stands before it, below the ``titles`` of the columns."""
    side, columns = cell_size(rows.values()), max(len(images) for images in rows.values())
    named = [_lines(name, 3 * SMALLEST_CELL) for name in rows]
    left = int(max(_width(line) for lines in named for line in lines)) + 2 * MARGIN
    heads = [_lines(title, side) for title in titles[:columns]]
    top = MARGIN + (max(map(len, heads)) * (TEXT + 3) + GAP if heads else 0)
    whole = Image.new("RGB", (left + columns * (side + GAP) + MARGIN, top + len(rows) * (side + GAP) + MARGIN), PAPER)
    draw = ImageDraw.Draw(whole)
    for column, lines in enumerate(heads):
        _write(draw, lines, left + column * (side + GAP), top - GAP - len(lines) * (TEXT + 3))
    for row, (lines, images) in enumerate(zip(named, rows.values())):
        y = top + row * (side + GAP)
        _write(draw, lines, MARGIN, y + max(0, (side - len(lines) * (TEXT + 3)) // 2))
        for column, image in enumerate(images):
            whole.paste(fitted(image, side), (left + column * (side + GAP), y))
    return whole


def fitted(image: Image.Image, side: int) -> Image.Image:
    """A picture as RGB that fills a cell along its longer side, enlarged with its pixels' edges as they are."""
    small = shown(image)
    factor = max(1, side // max(small.size))
    return small.resize([length * factor for length in small.size], Image.Resampling.NEAREST).convert("RGB")


def _lines(text: str, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` pixels; what is longer than some lines ends in dots."""
    lines, words = [""], text.split()
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or _width(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > LONGEST_LINES:
        lines = [*lines[: LONGEST_LINES - 1], f"{lines[LONGEST_LINES - 1]} …"]
    return [_cut(line, width) for line in lines]


def _cut(line: str, width: int) -> str:
    while _width(line) > width and len(line) > 1:
        line = line[:-2].rstrip() + "…"
    return line


def _write(draw: ImageDraw.ImageDraw, lines: Sequence[str], x: int, y: int) -> None:
    for number, line in enumerate(lines):
        draw.text((x, y + number * (TEXT + 3)), line, fill=INK, font=_font())


def _width(text: str) -> float:
    return _font().getlength(text)


@cache
def _font() -> ImageFont.FreeTypeFont:
    """The font that matplotlib brings, which has Greek and Cyrillic too."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), TEXT)
