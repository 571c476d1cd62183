"""Report pages: everything inside, nothing fetched, all text escaped."""

import base64
import re
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from piflow_cli.reports.page import Page, figure_png, png_bytes


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.texts: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.texts.append(data)


def read(page: Page) -> Reader:
    reader = Reader()
    reader.feed(page.html())
    return reader


@given(st.text(), st.text())
def test_text_is_text_whatever_is_in_it(title: str, cell: str) -> None:
    page = Page(title)
    page.table([{"a_b": cell}], ["a_b"])
    reader = read(page)
    plain = Page("title")
    plain.table([{"a_b": "cell"}], ["a_b"])
    assert reader.tags == read(plain).tags and not any(link.startswith("http") for link in reader.links)


def test_pictures_are_inside(tmp_path) -> None:
    page = Page("a report", "of a student")
    image = Image.new("RGB", (3, 2), (255, 0, 0))
    page.picture(png_bytes(image), 'a "red" <picture>')
    figure = Figure()
    figure.add_subplot().plot([1, 2])
    page.picture(figure_png(figure), "a line")
    page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert set(read(page).links) - {"data:,"} == set(re.findall(r'src="(data:image/png;base64,[^"]+)"', text))
    found = base64.b64decode(re.search(r"base64,([^\"]+)", text)[1])
    (tmp_path / "red.png").write_bytes(found)
    with Image.open(tmp_path / "red.png") as back:
        assert back.size == (3, 2) and back.getpixel((0, 0)) == (255, 0, 0)


def test_cells_read_as_on_the_screen() -> None:
    page = Page("t")
    page.table([{"x": 0.123456789, "y": None}], ["x", "y"])
    assert {"0.123457", "-"} <= set(read(page).texts)
