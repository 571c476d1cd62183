"""Results: one row a number, each with its protocol, and the table in which models stand side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

# What a metric is called above its column, and what it is, in the order of columns.
TITLES = {
    "fid": ("FID", "Frechet distance of features; lower is better"),
    "patch-fid": ("patch FID", "Frechet distance of features of centre crops at full resolution; lower is better"),
    "kid": ("KID", "kernel distance of features; lower is better"),
    "is": ("IS", "Inception score; higher is better"),
    "precision": ("precision", "share of pictures inside the reference's manifold; higher is better"),
    "recall": ("recall", "share of the reference inside the pictures' manifold; higher is better"),
    "clip": ("CLIP", "CLIP score of pictures and their prompts; higher is better"),
    "mse": ("MSE", "squared distance to the teacher's fine solution of the same noise, per number of the state; lower is better"),
    "psnr": ("PSNR", "dB, of pictures against those of the teacher's fine solution of the same noise; higher is better"),
    "lpips": ("LPIPS", "perceptual distance to the teacher's fine solution of the same noise; lower is better"),
    "diversity": ("diversity", "mean distance of features of two pictures of one label or prompt, over the teacher's; 1 is as diverse"),
    "velocity-error": ("velocity error", "mean square of policy minus teacher velocity on the student's own path, over the teacher's; lower is better"),
    "network-ms": ("network ms", "of one evaluation of a batch"),
    "policy-ms": ("policy ms", "of following one evaluation's policy, for a batch"),
    "images-per-second": ("images/s", "from noise to states, without features and files"),
}
BASIC_COLUMNS = ("model", "policy", "nfe")


@dataclass(frozen=True)
class Row:
    """One number. ``low`` and ``high`` bound it where it has an interval.

    ``images``: how many pictures it is of; ``seeds`` they are from. ``extractor``, ``resize``: what looked at them.
    ``reference``: what they are compared with, and ``reference_images`` how many that has.
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
    seeds: str | None = None
    extractor: str | None = None
    resize: str | None = None
    reference: str | None = None
    reference_images: int | None = None
    detail: str | None = None

    @property
    def as_dict(self) -> dict:
        """For JSON: what does not apply is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def cell(self) -> str:
        """The number as a table shows it, with its interval."""
        if self.low is None or self.high is None:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def columns_of(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by the title of their column, in the order of TITLES; an extractor is part of the title where there are several."""
    order = list(TITLES)
    several = {row.metric for row in rows if len({other.extractor for other in rows if other.metric == row.metric}) > 1}
    columns: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: order.index(row.metric)):
        title = TITLES[row.metric][0] + (f" {row.extractor}" if row.metric in several else "")
        columns.setdefault(title, []).append(row)
    return columns


def wide_table(rows: Sequence[Row]) -> tuple[list[dict[str, object]], list[str]]:
    """A line a model and number of evaluations, a column a metric; None where a model has no such number."""
    columns = columns_of(rows)
    models = dict.fromkeys((row.model, row.policy, row.nfe) for row in rows)
    lines: list[dict[str, object]] = []
    for model in models:
        cells = {
            title: next((row.cell for row in column if (row.model, row.policy, row.nfe) == model), None) for title, column in columns.items()
        }
        lines.append({**dict(zip(BASIC_COLUMNS, model)), **cells})
    return lines, [*BASIC_COLUMNS, *columns]


def protocols(rows: Sequence[Row]) -> dict[str, str]:
    """Under what each column was measured, by its title; models that differ in it are told apart."""
    told: dict[str, str] = {}
    for title, column in columns_of(rows).items():
        ways: dict[str, list[str]] = {}
        for row in column:
            ways.setdefault(_protocol(row), []).append(row.model)
        if len(ways) == 1:
            told[title] = next(iter(ways))
        else:
            told[title] = "; ".join(f"{', '.join(dict.fromkeys(models))}: {way}" for way, models in ways.items())
    return told


def _protocol(row: Row) -> str:
    parts = [f"{row.images:,} images"]
    if row.seeds is not None:
        parts[0] += f" of seeds {row.seeds}"
    if row.reference is not None:
        against = f" ({row.reference_images:,})" if row.reference_images else ""
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
