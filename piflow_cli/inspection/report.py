"""policy.json, the pictures and policy.html of an inspection."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..console import dumps
from ..core.policies.kinds import policy_class
from ..reports.grids import rows_by_titles, titled_grid
from ..reports.page import Page
from ..reports.plots import figure_png, png_bytes
from . import curves, image_figures
from .advice import Advice
from .analysis import CloseUp, Findings
from .kinds.anatomy import Anatomy, anatomies, anatomy_named
from .numbers import Step, Summary
from .request import JSON_NAME
from .substeps import ENOUGH, FINE_SUBSTEPS
from .tensors import MOST_POSITIONS
from .verdict import verdict_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

PAGE_NAME = "policy.html"
# Names of files, which stay as they are in 0.1.0.
PICTURES = (
    "samples", "course", "estimates", "teacher", "substeps", "robustness", "dropout", "teacher-robustness", "slice",
    "maps",
)  # fmt: skip
OF_VIDEOS = (
    "Of videos, pictures are their middle frames; maps and slices are of the latent frame in the middle, which has"
    " weights of its own. Numbers are over all frames."
)


@dataclass(frozen=True)
class Inspected:
    """One student in the report.

    It has a name, findings, numbers, advice, and the reason why its teacher is missing if it is.
    """

    name: str
    found: Findings
    summary: Summary
    warned: list[Advice]
    teacher_missing: str | None


def is_of_report(name: str) -> bool:
    """Whether a report writes files of this name; with several students its pictures are numbered."""
    pictures = {*PICTURES, *(anatomy.name for anatomy in anatomies())}
    return name in (JSON_NAME, PAGE_NAME) or (re.sub(r"(-[12])?\.png$", "", name) in pictures and name.endswith(".png"))


def as_json(students: Sequence[Inspected]) -> dict:
    """The content of policy.json."""
    return {
        "students": [
            {
                "name": student.name,
                **asdict(student.summary),
                "steps": [_step_json(step, student.summary.policy) for step in student.summary.steps],
                "teacher_missing": student.teacher_missing,
                "warnings": [asdict(item) for item in student.warned],
            }
            for student in students
        ]
    }


def _step_json(step: Step, policy: str) -> dict:
    """The fields of a step; its ``part`` has the name of its anatomy, and other anatomies' names are null."""
    parts = {anatomy.name: None for anatomy in anatomies()}
    if step.part is not None:
        parts[anatomy_named(policy).name] = asdict(step.part)
    return {key: value for key, value in asdict(step).items() if key != "part"} | parts


def write_report(students: Sequence[Inspected], folder: Path) -> list[Path]:
    """Write all files into the existing ``folder``; returns them."""
    page, files = _opened(students), []
    for section in _sections(students):
        if section.title:
            page.heading(section.title)
        png = _shown(section, page, students)
        (folder / f"{section.name}.png").write_bytes(png)
        files.append(folder / f"{section.name}.png")
    page.heading("How this was measured")
    page.text(_method(students[0]))
    if any("frames" in shot for student in students for shot in student.summary.shots):
        page.text(OF_VIDEOS)
    (folder / JSON_NAME).write_text(dumps(as_json(students)) + "\n")
    page.write(folder / PAGE_NAME)
    return [folder / PAGE_NAME, folder / JSON_NAME, *files]


def _shown(section: Section, page: Page, students: Sequence[Inspected]) -> bytes:
    """Add the pictures of a section to the page; returns them as one PNG."""
    if isinstance(section.shown, Mapping):
        told = {student.name: _titles(student.summary) for student in students}
        # The rows of teachers have names of their own: students share one, or it is told whose it is.
        of_teachers = {image_figures.teacher_of(name): titles for name, titles in told.items()}
        first = {name: _titles(students[0].summary) for name in section.shown}
        groups = rows_by_titles(section.shown, first | of_teachers | told)
        for titles, rows in groups.items():
            page.gallery(rows, section.caption, titles)
        return png_bytes(titled_grid(groups))
    page.plots(section.shown, section.caption)
    return figure_png(*section.shown)


def _titles(summary: Summary) -> list[str]:
    return [str(shot["prompt"]) if "prompt" in shot else f"class {shot['label']}" for shot in summary.shots]


def _opened(students: Sequence[Inspected]) -> Page:
    """The page down to the verdict and the advice."""
    summaries, names = [student.summary for student in students], [student.name for student in students]
    first = summaries[0]
    pictures = len(first.shots)
    page = Page(
        "What the policy decided: " + " and ".join(names),
        f"teacher {first.teacher}, {pictures} picture{'s' if pictures != 1 else ''}; "
        f"evaluation {first.at} of {first.nfe} is looked at closely",
    )
    page.heading("Verdict")
    rows = verdict_rows(summaries, names, [student.warned for student in students])
    page.table(rows, list(rows[0]))
    for student in students:
        if student.teacher_missing is not None:
            page.text(f"{student.name}: what needs the teacher is left out, because {student.teacher_missing}")
    page.heading("What to change")
    rows = [
        {"student": student.name, "seen": item.text, "remedy": item.remedy}
        for student in students
        for item in student.warned
    ]
    if rows:
        page.table(rows, ["student", "seen", "remedy"] if len(students) > 1 else ["seen", "remedy"])
    else:
        page.text("Nothing stands out.")
    return page


class Section(NamedTuple):
    """A heading (empty: goes on under the one before), a caption, the name of the file, and panels or rows."""

    title: str
    caption: str
    name: str
    shown: list[Figure] | Mapping[str, Sequence[Image]]


def _sections(students: Sequence[Inspected]) -> Iterator[Section]:
    drawn = curves.student_curves([student.summary for student in students], [student.name for student in students])
    yield Section(
        "Samples",
        "Samples from the same noise. Where a student differs from its teacher, training missed or blurred something.",
        "samples",
        image_figures.ends_rows([student.found for student in students], [student.name for student in students]),
    )
    yield from _composition(students, drawn)
    yield Section(
        "On the way",
        (
            "A straight way with an even speed is easy to follow in few steps; a turn near the data is where pictures"
            " get their edges."
        ),
        "course",
        curves.motion_figure(drawn),
    )
    for student, name in _each(students, "estimates"):
        yield Section(
            f"x_0 on the way: {student.name}",
            (
                "The x_0 that the policy expects at the states it visits, and the x_0 that its teacher expects at the"
                " same states."
            ),
            name,
            [_estimates(student.found.close)],
        )
    if any(student.summary.trajectory_error is not None for student in students):
        yield Section(
            "Against the teacher",
            (
                "The velocity error is taken along the student's own path, as `piflow eval` has it; the distance is"
                " between two paths."
            ),
            "teacher",
            curves.teacher_figure(drawn),
        )
    if stepped := [curve for curve in drawn if not policy_class(curve.summary.policy).exact]:
        yield Section(
            "Substeps",
            (
                f"Ends of coarse rollouts against a fine one in float64. {ENOUGH:.0%} of the way (dashed) is taken to"
                " be enough."
            ),
            "substeps",
            curves.substeps_figure(stepped),
        )
    yield from _robustness(students, drawn)
    for student, name in _each(students, "slice"):
        if (cut := student.found.close.slice) is not None:
            yield Section(
                f"One position: {student.name}",
                "The slice is of the first picture. Thin lines start beside the state and follow the same policy.",
                name,
                [image_figures.slice_figure(cut, student.name)],
            )


def _estimates(close: CloseUp) -> Figure:
    theirs = {} if close.teacher_estimates is None else {"teacher": close.teacher_estimates}
    return image_figures.estimates_figure(close.shown_raws, {"policy": close.estimates, **theirs})


def _composition(students: Sequence[Inspected], drawn: Sequence[curves.StudentCurve]) -> Iterator[Section]:
    """Add the sections on each kind of policy; maps follow the kinds that have them."""
    mapped = [anatomy for anatomy in anatomies() if anatomy.by_position is not None]
    yield from _anatomies(mapped, drawn)
    for student, name in _each(students, "maps"):
        if (maps := student.found.close.maps) is not None:
            yield Section(
                "",
                f"{student.name}: the sample, components in effect at each position, and the weights of the heaviest.",
                name,
                [image_figures.maps_figure(maps, student.found.ends)],
            )
    yield from _anatomies([anatomy for anatomy in anatomies() if anatomy not in mapped], drawn)


def _anatomies(kinds: Sequence[Anatomy], drawn: Sequence[curves.StudentCurve]) -> Iterator[Section]:
    for anatomy in kinds:
        such = [curve for curve in drawn if anatomy_named(curve.summary.policy) == anatomy]
        if such and anatomy.figure is not None:
            yield Section(anatomy.heading, anatomy.text, anatomy.name, anatomy.figure(such))


def _robustness(students: Sequence[Inspected], drawn: Sequence[curves.StudentCurve]) -> Iterator[Section]:
    yield Section(
        "Robustness",
        (
            "Noise is put into the state in the middle of the segment. A policy whose x_0 does not react to the state"
            " lets it shrink with sigma (grey), whatever it does to the picture; one whose velocity does not"
            " carries all of it to the end. A teacher answers with another x_0, and a mixture can do so too:"
            " a steering ratio of 1 is the teacher's answer, 0 is none."
        ),
        "robustness",
        curves.robustness_figure(drawn),
    )
    mixtures = [curve for curve in drawn if curve.summary.robustness.dropout]
    if mixtures:
        yield Section(
            "",
            "How far the end moves when one component is left out: a component that nobody misses is not used.",
            "dropout",
            curves.dropout_figure(mixtures),
        )
    if any(student.summary.teacher_robustness is not None for student in students):
        yield Section(
            "",
            (
                "The teacher alone: states of its own path with noise added, and how far its x_0 moves from the one on"
                " the path. At 0 it takes the push for noise, at 1 (grey) for a part of the picture, above it makes"
                " more of it. A student asks its teacher about such states."
            ),
            "teacher-robustness",
            curves.teacher_robustness_figure(drawn),
        )


def _each(students: Sequence[Inspected], name: str) -> Iterator[tuple[Inspected, str]]:
    """Every student, and ``name`` as a file's, numbered where there are several."""
    for number, student in enumerate(students, start=1):
        yield student, name if len(students) == 1 else f"{name}-{number}"


def _method(student: Inspected) -> str:
    return (
        f"Seeds {', '.join(str(spec['seed']) for spec in student.summary.shots[:16])}. Switches, substeps and component"
        " dropout are measured on every s-th row and column, s the smallest odd number that leaves at most"
        f" {MOST_POSITIONS:,} positions in a batch; all else on all positions. The fine rollout has {FINE_SUBSTEPS:,}"
        " substeps per unit of raw time, extrapolated. x_0 and states are in the units of the network: pixels or"
        " latents of about unit size. Components are counted from 0."
    )
