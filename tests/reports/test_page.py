"""Report pages: everything inside, nothing fetched, all text escaped."""

import base64
import re
from html.parser import HTMLParser
from io import BytesIO

from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from piflow_cli.reports.page import Page


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
    page.gallery({'a "red" <model>': [Image.new("RGB", (3, 2), (255, 0, 0))]}, "one picture", ['a "red" <prompt>'])
    figure = Figure()
    figure.add_subplot().plot([1, 2])
    page.plots([figure, figure], "a line & a line")
    page.write(tmp_path / "page.html")
    text, reader = (tmp_path / "page.html").read_text(), read(page)
    assert set(reader.links) - {"data:,"} == set(re.findall(r'src="(data:image/png;base64,[^"]+)"', text))
    assert reader.tags.count("svg") == 2 and {'a "red" <model>', 'a "red" <prompt>'} <= set(reader.texts)
    found = base64.b64decode(re.search(r"base64,([^\"]+)", text)[1])
    with Image.open(BytesIO(found)) as back:
        assert back.size == (3, 2) and back.getpixel((0, 0)) == (255, 0, 0)


def test_every_heading_is_in_the_contents() -> None:
    page = Page("t")
    for name in ("one", "two & <three>"):
        page.heading(name)
    text = page.html()
    targets = re.findall(r'<a href="#([^"]+)">([^<]+)</a>', text)
    assert targets == re.findall(r'<h2 id="([^"]+)">([^<]+)</h2>', text) and len(targets) == 2


def test_what_scrolls_is_reached_by_the_keyboard_and_the_best_cell_is_bold() -> None:
    page = Page("t")
    page.table([{"x": 1, "y": 2}], ["x", "y"], {(0, "y")})
    text = page.html()
    assert "<td>1</td><td><strong>2</strong></td>" in text
    assert text.count('class="scroll"') == text.count('class="scroll" tabindex="0" role="region"') == 1


def test_cells_read_as_on_the_screen() -> None:
    page = Page("t")
    page.table([{"x": 0.123456789, "y": None}], ["x", "y"])
    assert {"0.123457", "-"} <= set(read(page).texts)
