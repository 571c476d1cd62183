"""report.json, report.html and the pictures of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console import format_table
from ..reports.grids import rows_by_titles, titled_grid
from ..reports.page import Page
from ..reports.plots import figure_png, png_bytes
from ..sampling.trajectory import VelocityError
from .metric_kinds import metric_numbers
from .plots import colours_of, error_figure, quality_panels
from .report_folder import NUMBERS, PAGE, clear_pictures, write_files
from .rows import Row, best_cells, by_metric, protocols, table_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

INTERVAL = (
    "Of few images a distance comes out too high, so what it is of many is estimated; in parentheses is where it lies"
    " with 95 % probability."
)


@dataclass
class Report:
    """The results of an evaluation.

    ``recipe``: how the command was run. ``errors`` and ``samples``: by title of the model.

    ``errors`` come with the name of the model, ``samples`` are its pictures of the same noise in every row, and
    ``sample_titles`` their prompts or classes, by title too: students may be told others; ``notes`` is what a reader of
    the numbers must know. ``pictures``: files of single ones that were written.
    """

    title: str
    recipe: Mapping[str, object]
    rows: list[Row] = field(default_factory=list)
    errors: dict[str, tuple[str, Sequence[VelocityError]]] = field(default_factory=dict)
    samples: dict[str, Sequence[Image]] = field(default_factory=dict)
    sample_titles: dict[str, Sequence[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    pictures: set[Path] = field(default_factory=set)

    def as_dict(self) -> dict[str, Any]:
        """The content of report.json and --json."""
        return {
            **self.recipe,
            "results": [row.as_dict for row in self.rows],
            "trajectory": {
                title: [{**asdict(error), "relative": error.relative} for error in found]
                for title, (_, found) in self.errors.items()
            },
            "notes": self.all_notes,
        }

    def text(self) -> str:
        """The table of all models, and under it the protocol of each column."""
        told = [f"{names}: {protocol}" for names, protocol in protocols(self.rows)]
        return "\n".join([format_table(*table_of(self.rows)), "", *told, *self.all_notes])

    @property
    def all_notes(self) -> list[str]:
        """How to read an interval where there is one, why a distance has none, and the notes."""
        reading = [INTERVAL] if any(row.low is not None for row in self.rows) else []
        without = [
            f"{name}: {row.note}"
            for name, found in by_metric(self.rows).items()
            for row in found
            if row.note and row.low is None
        ]
        return [*reading, *dict.fromkeys(without + self.notes)]


def write_report(report: Report, folder: Path) -> dict[str, Path]:
    """Write the report into ``folder``, where an earlier one goes; returns its files by what they are."""
    panels = _panels(report)
    pictures = {name: figure_png(*figures) for name, figures in panels.items()}
    if report.samples:
        pictures["samples"] = png_bytes(titled_grid(_in_order(report)))
    page = _page(report, panels).html().encode()
    write_files(folder, report.as_dict(), {PAGE: page, **{f"{name}.png": png for name, png in pictures.items()}})
    clear_pictures(folder, report.pictures)
    return {"report": folder / PAGE, "numbers": folder / NUMBERS, **{name: folder / f"{name}.png" for name in pictures}}


def _panels(report: Report) -> dict[str, list[Figure]]:
    """The plots by name, those that there are."""
    error = error_figure(report.errors, colours_of(report.rows))
    found = {"quality": quality_panels(report.rows), "error": [] if error is None else [error]}
    return {name: figures for name, figures in found.items() if figures}


def _in_order(report: Report) -> dict[tuple[str, ...], dict[str, Sequence[Image]]]:
    """The fine solution, then students, then coarser teachers, so that like pictures stand side by side.

    Those that were told the same stand together, by what that is.
    """
    coarse = {row.title for row in report.rows if row.kind == "teacher"}
    ordered = dict(sorted(report.samples.items(), key=lambda item: item[0] in coarse))
    return rows_by_titles(ordered, report.sample_titles)


def _page(report: Report, panels: Mapping[str, list[Figure]]) -> Page:
    page = Page(report.title, "Made by piflow eval. Bold: the best of the students. ↑ higher is better, ↓ lower is.")
    page.heading("Numbers")
    lines, columns = table_of(report.rows)
    page.table(lines, columns, best_cells(report.rows))
    for note in report.all_notes:
        page.text(note)
    if report.samples:
        page.heading("From the same noise")
        for titles, rows in _in_order(report).items():
            page.gallery(
                rows,
                "Each row is a model, each column a noise. A student close to its teacher's fine solution looks like"
                " the first row.",
                titles,
            )
    if "quality" in panels:
        page.heading("Quality against evaluations")
        page.plots(
            panels["quality"],
            "Squares: the teacher by Euler steps. Pale bars: where the number of 10,000 images lies.",
        )
    if "error" in panels:
        page.heading("Error by time")
        page.plots(
            panels["error"],
            "How far the policy's velocity is from the teacher's along the student's own path: mean square of the"
            " difference over the teacher's mean square. A line begins at each network evaluation.",
        )
    page.heading("Protocol")
    told = [{"metric": names, "measured": protocol} for names, protocol in protocols(report.rows)]
    page.table(told, ["metric", "measured"])
    known = metric_numbers()
    meanings = {known[row.metric].title: known[row.metric].meaning for row in report.rows}
    page.table([{"metric": name, "what it is": what} for name, what in meanings.items()], ["metric", "what it is"])
    page.heading("Settings")
    page.table(
        [{"setting": name, "value": _setting(value)} for name, value in report.recipe.items()], ["setting", "value"]
    )
    return page


def _setting(value: object) -> object:
    return ", ".join(f"{name} {part}" for name, part in value.items()) if isinstance(value, Mapping) else value
