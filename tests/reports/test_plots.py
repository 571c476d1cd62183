"""Plots: numbers on every axis, and SVG that has no colours and names of its own on a page."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from piflow_cli.reports.plots import figure_svg, log_numbers, log_ticks


@given(st.floats(1e-6, 1e6), st.floats(1.01, 1e8))
def test_a_logarithmic_axis_has_three_to_seven_numbers_inside(low: float, ratio: float) -> None:
    ticks = log_ticks(low, low * ratio)
    assert 3 <= len(ticks) <= 7 and ticks == sorted(set(ticks))
    assert all(low * (1 - 1e-9) <= tick <= low * ratio * (1 + 1e-9) for tick in ticks)


def test_numbers_that_lie_close_together_stand_beside_the_axis() -> None:
    """matplotlib writes none between two powers of ten."""
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1, 2], [0.31, 0.32])
    log_numbers(axes.yaxis)
    svg = figure_svg(figure, "two numbers")
    low, high = axes.get_ylim()
    named = [float(text) for text in re.findall(r"<text[^>]*>([\d.]+)</text>", svg)]
    assert len([number for number in named if low <= number <= high]) >= 3


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.colours: set[str] = set()

    def handle_starttag(self, tag, attributes) -> None:
        given = dict(attributes)
        if tag == "g" and "id" in given:
            self.names.append(given["id"])
        self.colours |= set(re.findall(r"(?:fill|stroke): (#\w+|var\(--\w+\))", given.get("style") or ""))


def test_greys_and_colours_are_those_of_the_page() -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1, 2], [1, 2], color="tab:blue")
    axes.grid(color="#eceef0")
    axes.set_title("$ & <b>")
    reader, svg = Reader(), figure_svg(figure, "a line")
    reader.feed(svg)
    assert reader.names == [] and "&lt;b&gt;" in svg and 'aria-label="a line"' in svg
    assert {"var(--ink)", "var(--line)", "var(--c1f77b4)"} <= reader.colours
    assert not any(colour.startswith("#") for colour in reader.colours)
    assert not re.search(r"url\((?!#)", svg) and "<metadata" not in svg
