"""The report: self-contained, the same numbers everywhere, pictures of what was measured."""

from __future__ import annotations

import errno
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from piflow_cli.evaluation.plots import colours_of, error_figure, quality_panels
from piflow_cli.evaluation.report import INTERVAL, Report, write_report
from piflow_cli.evaluation.report_folder import NAMES, is_of_report
from piflow_cli.evaluation.rows import Row
from piflow_cli.reports.images import to_images
from piflow_cli.reports.plots import figure_png
from piflow_cli.sampling.trajectory import VelocityError

ROWS = [
    Row("teacher", "teacher", "Euler", 1, "fid", 6.25, 100, extractor="pixels", resize="none", reference="data"),
    Row("teacher", "teacher", "Euler", 4, "fid", 0.625, 100, extractor="pixels", resize="none", reference="data"),
    Row(
        "gm & <co>",
        "student",
        "gm, 8",
        1,
        "fid",
        0.1805,
        100,
        low=0.11,
        high=0.17,
        estimate=0.1412,
        at=10_000,
        extractor="pixels",
        resize="none",
        reference="data",
    ),
    Row("gm & <co>", "student", "gm, 8", 1, "images-per-second", 2000.0, 64),
]
ERRORS = [
    VelocityError(index, raw, raw, 0.01 * (1 + index), 1.0) for index, raw in ((0, 1.0), (0, 0.75), (1, 0.5), (1, 0.25))
]


def report() -> Report:
    found = Report("a title", {"device": "cpu"}, rows=list(ROWS), notes=["no diversity: why not"])
    found.errors["gm & <co>, 1 NFE"] = ("gm & <co>", ERRORS)
    found.samples = {row.title: to_images(torch.zeros(3, 1, 8, 8)) for row in ROWS}
    return found


def test_students_that_are_told_other_things_have_titles_of_their_own(tmp_path) -> None:
    found = report()
    first, *others = found.samples
    found.sample_titles = {first: ("class 0", "class 1", "class 2")} | dict.fromkeys(others, ("a fox", "cat", "owl"))
    write_report(found, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.count('class="gallery"') == 2 and f'alt="{first}, class 1"' in page and ", cat" in page
    found.sample_titles = dict.fromkeys(found.samples, ("a fox", "cat", "owl"))
    write_report(found, tmp_path)
    assert (tmp_path / "report.html").read_text().count('class="gallery"') == 1


class References(HTMLParser):
    """Everything a page would fetch, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs) -> None:
        self.found += [
            value for name, value in attrs if name in ("src", "href", "srcset", "data", "action") and value is not None
        ]
        assert tag not in ("script", "iframe", "object", "embed")

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_has_everything_inside(tmp_path: Path) -> None:
    files = write_report(report(), tmp_path)
    page = files["report"].read_text()
    parser = References()
    parser.feed(page)
    assert parser.found and all(value.startswith(("data:", "#")) for value in parser.found)
    assert not re.search(r"url\((?!#)|@import", page)
    assert "gm & <co>, 1 NFE" in parser.text and "0.1412 (0.11 to 0.17)" in parser.text
    assert INTERVAL in parser.text and "no diversity: why not" in parser.text
    for name in ("quality", "error", "samples"):
        with Image.open(files[name]) as picture:
            assert picture.format == "PNG" and min(picture.size) > 100


def test_a_picture_of_an_earlier_report_does_not_stay_beside_this_one(tmp_path: Path) -> None:
    write_report(report(), tmp_path)
    later = report()
    later.errors.clear()
    files = write_report(later, tmp_path)
    assert set(tmp_path.iterdir()) == set(files.values()) and "error" not in files


def test_what_a_report_did_not_write_it_does_not_remove(tmp_path: Path) -> None:
    """Nor what was changed since, nor what piflow never writes."""
    first = report()
    first.errors.clear()
    write_report(first, tmp_path)
    (tmp_path / "error.png").write_bytes(b"mine")
    (tmp_path / "notes.txt").write_bytes(b"mine")
    write_report(first, tmp_path)
    (tmp_path / "samples.png").write_bytes(b"mine")
    first.samples.clear()
    write_report(first, tmp_path)
    assert {
        name: (tmp_path / name).read_bytes() for name in ("error.png", "notes.txt", "samples.png")
    } == dict.fromkeys(("error.png", "notes.txt", "samples.png"), b"mine")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_somebody_else_is_not_one_of_a_report(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("[1]")
    assert not is_of_report(tmp_path / name)


def test_a_report_is_replaced_by_the_next_one_and_so_is_one_of_an_older_piflow(tmp_path: Path) -> None:
    files = write_report(report(), tmp_path)
    assert all(map(is_of_report, tmp_path.iterdir()))
    told = json.loads(files["numbers"].read_text())
    assert set(told.pop("files")) == {path.name for path in files.values()} - {"report.json"}
    files["numbers"].write_text(json.dumps(told))
    assert all(map(is_of_report, tmp_path.iterdir()))
    later = report()
    later.errors.clear()
    assert set(write_report(later, tmp_path).values()) == set(tmp_path.iterdir())


def test_a_report_that_cannot_be_written_whole_leaves_the_earlier_one(tmp_path: Path, monkeypatch) -> None:
    write_report(report(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write, written = Path.write_bytes, []

    def fails(path: Path, content: bytes) -> int:
        written.append(path)
        if len(written) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(OSError, match="No space"):
        write_report(
            replace(report(), title="another", rows=[replace(row, value=2 * row.value) for row in ROWS]), tmp_path
        )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["$", "$$", "$x$", r"$\frac{$", r"a\$b$", "$x_$y^"])
def test_dollars_in_names_are_dollars(tmp_path: Path, name: str) -> None:
    """No name is mathematics: every picture is drawn, and a name between dollars is as wide as its letters."""
    rows = [replace(row, model=name) if row.kind == "student" else row for row in ROWS]
    found = Report(name, {"device": "cpu"}, rows=rows, samples={f"{name}, 1 NFE": to_images(torch.zeros(3, 1, 8, 8))})
    found.errors[f"{name}, 1 NFE"] = (name, ERRORS)
    assert {"quality", "error", "samples"} <= write_report(found, tmp_path).keys()
    (figure,) = quality_panels(rows)
    figure_png(figure)
    (text,) = [text for text in figure.axes[0].get_legend().get_texts() if text.get_text() == name]
    assert not text.get_parse_math()
    assert all(label.get_parse_math() for label in figure.axes[0].get_xticklabels())


def test_json_and_text_have_the_same_numbers(tmp_path: Path) -> None:
    files = write_report(report(), tmp_path)
    numbers = json.loads(files["numbers"].read_text())
    assert [result["value"] for result in numbers["results"]] == [row.value for row in ROWS]
    assert (numbers["results"][2]["estimate"], numbers["results"][2]["at"]) == (0.1412, 10_000)
    assert numbers["results"][2]["low"] == 0.11 and numbers["device"] == "cpu"
    (curve,) = numbers["trajectory"].values()
    assert [error["relative"] for error in curve] == pytest.approx([0.01, 0.01, 0.02, 0.02])
    text = report().text()
    assert "0.1412 (0.11 to 0.17)" in text and "FID: 100 images, against data, extractor pixels, resize none" in text


def test_quality_is_drawn_over_evaluations() -> None:
    (figure,) = quality_panels(ROWS)
    (axes,) = figure.axes
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
    assert lines == {"teacher, Euler": ([1, 4], [6.25, 0.625]), "gm & <co>": ([1], [0.1805])}
    assert axes.get_title() == "FID" and [label.get_text() for label in axes.get_xticklabels()] == ["1", "4"]
    assert quality_panels([row for row in ROWS if row.metric != "fid"]) == []


def test_the_error_jumps_where_the_student_looks_again() -> None:
    colours = colours_of(ROWS)
    figure = error_figure({"gm & <co>, 2 NFE": ("gm & <co>", ERRORS)}, colours)
    (axes,) = figure.axes
    assert [list(line.get_xdata()) for line in axes.lines] == [[1.0, 0.75], [0.5, 0.25]]
    assert {line.get_color() for line in axes.lines} == {colours["gm & <co>"]} and colours["teacher"] not in {
        line.get_color() for line in axes.lines
    }
    assert error_figure({}, {}) is None
