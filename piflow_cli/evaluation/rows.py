"""Results: one row for each number with its protocol, and the table in which models stand side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from .metric_kinds import metric_numbers

METRIC = "metric"
ARROWS = {"lower": " ↓", "higher": " ↑", None: ""}


@dataclass(frozen=True)
class Row:
    """One number.

    ``images``: how many pictures it is of; ``seeds``: theirs. ``extractor``, ``resize``: how features were extracted.
    ``reference``: what they are compared with, and ``reference_images`` how many that has. ``low`` and ``high``: the
    interval of the number of ``at`` pictures, for a distance of fewer (95 %), and ``estimate`` the middle of what is
    known of it. ``detail``: more of the protocol. ``note``: on this number. ``trained``: the evaluations that a student
    was trained for.
    """

    model: str
    kind: str
    policy: str
    nfe: int | None
    metric: str
    value: float
    images: int
    low: float | None = None
    high: float | None = None
    estimate: float | None = None
    at: int | None = None
    seeds: str | None = None
    extractor: str | None = None
    resize: str | None = None
    reference: str | None = None
    reference_images: int | None = None
    detail: str | None = None
    note: str | None = None
    trained: int | None = None

    @property
    def as_dict(self) -> dict:
        """The row for JSON, without fields that do not apply."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def title(self) -> str:
        """The model and its evaluations, as tables and plots have them."""
        return self.model if self.nfe is None else titled(self.model, self.kind, self.nfe, self.trained)

    @property
    def cell(self) -> str:
        """The number as a table shows it."""
        return f"{self.value:.4g}"

    @property
    def many(self) -> str | None:
        """The number of more pictures as a table shows it, with its interval; None where it is not estimated."""
        if self.low is None or self.high is None or self.estimate is None:
            return None
        return f"{self.estimate:.4g} ({self.low:.3g} to {self.high:.3g})"


def titled(model: str, kind: str, nfe: int, trained: int | None = None) -> str:
    """digits, 1 NFE; digits, 4 NFE (trained for 1); teacher, 32 steps."""
    other = f" (trained for {trained})" if trained not in (None, nfe) else ""
    return f"{model}, {nfe} {'NFE' if kind == 'student' else 'step' if nfe == 1 else 'steps'}{other}"


def by_metric(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by title, in the order of the metrics; the title names the extractor where there are several."""
    known = metric_numbers()
    order = list(known)
    several = {row.metric for row in rows if len({other.extractor for other in rows if other.metric == row.metric}) > 1}
    named: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: order.index(row.metric)):
        name = known[row.metric].title + (f" {row.extractor}" if row.metric in several else "")
        named.setdefault(name, []).append(row)
    return named


def table_of(rows: Sequence[Row]) -> tuple[list[dict[str, object]], list[str]]:
    """A line for each metric and a column for each model at a number of evaluations; None where a number is missing.

    An arrow says whether a number is better high or low. A distance of few pictures has a second line, for many.
    """
    models = list(dict.fromkeys(row.title for row in rows))
    lines: list[dict[str, object]] = []
    for name, found in by_metric(rows).items():
        number = metric_numbers()[found[0].metric]
        arrow = ("" if number.unit is None else f", {number.unit}") + ARROWS[number.better]
        cells: dict[str, str | None] = {row.title: row.cell for row in found}
        lines.append({METRIC: f"{name}{arrow}", **{model: cells.get(model) for model in models}})
        for at in dict.fromkeys(row.at for row in found if row.many is not None):
            cells = {row.title: row.many for row in found if row.at == at}
            lines.append({METRIC: f"{name} at {at:,} images{arrow}", **{model: cells.get(model) for model in models}})
    return lines, [METRIC, *models]


def best_cells(rows: Sequence[Row]) -> set[tuple[int, str]]:
    """The cells of :func:`table_of` that hold the best number of all students, where there are several numbers."""
    best, line = set(), 0
    for found in by_metric(rows).values():
        better = metric_numbers()[found[0].metric].better
        students = [row for row in found if row.kind != "teacher"]
        if better is not None and len({row.value for row in students}) > 1:
            first = (min if better == "lower" else max)(row.value for row in students)
            best |= {(line, row.title) for row in students if row.value == first}
        line += 1 + len({row.at for row in found if row.many is not None})
    return best


def protocols(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The protocol of the numbers: names of metrics with commas between, and what holds for all of them."""
    told: dict[str, list[str]] = {}
    for name, found in by_metric(rows).items():
        ways: dict[str, list[str]] = {}
        for row in found:
            ways.setdefault(_protocol(row), []).append(row.title)
        if len(ways) == 1:
            told.setdefault(next(iter(ways)), []).append(name)
        else:
            # Two students with teachers of their own, say, are compared with other pictures.
            for way, models in ways.items():
                told.setdefault(f"{way} ({'; '.join(models)})", []).append(name)
    return [(", ".join(names), way) for way, names in told.items()]


def _protocol(row: Row) -> str:
    parts = [f"{row.images:,} images"]
    if row.seeds is not None:
        parts[0] += f" of seeds {row.seeds}"
    if row.reference is not None:
        against = f" ({row.reference_images:,} images)" if row.reference_images else ""
        parts.append(f"against {row.reference}{against}")
    if row.extractor is not None:
        parts.append(f"extractor {row.extractor}, resize {row.resize}")
    if row.detail is not None:
        parts.append(row.detail)
    return ", ".join(parts)


def ranges(numbers: Sequence[int]) -> str:
    """Whole numbers as `--seeds` takes them: 0-3,7."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
