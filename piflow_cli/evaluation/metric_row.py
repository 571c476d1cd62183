"""What a row of the table of metrics holds: numbers, needs and a cost. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Needs of metrics.
STUDENT = "a student"  # pictures alone do not tell
FEATURES = "features"  # of whole pictures, by an extractor
PATCHES = "patches"  # features of the middle of every picture, which is not resized
REFERENCE = "a reference"  # features of a reference
EACH = "features of each picture"  # kept on both sides, where a distance of means and covariances needs moments alone
CLASSES = "classes"  # logits of the extractor's own classifier
PROMPTS = "prompts"
OWN_TEACHER = "a teacher"
FINE = "a fine solution"  # the teacher's, from the same noise
VIDEOS = "videos"  # pictures have nothing of it
NEEDS = frozenset({STUDENT, FEATURES, PATCHES, REFERENCE, EACH, CLASSES, PROMPTS, OWN_TEACHER, FINE, VIDEOS})
# Metrics that are measured unless some are named: --quick takes the first cost, no option the first two, --full three.
COSTS = ("quick", "standard", "full", "named")


@dataclass(frozen=True)
class Number:
    """A number that a metric gives.

    Attributes:
        name: in report.json.
        title: above its column.
        what: what it is, in words.
        better: whether lower or higher numbers are better; None: neither.
        drawn: whether a plot draws it against the number of evaluations.
        unit: of a number whose title does not say it.
    """

    name: str
    title: str
    what: str
    better: Literal["lower", "higher"] | None = None
    drawn: bool = False
    unit: str | None = None

    @property
    def meaning(self) -> str:
        return self.what if self.better is None else f"{self.what}; {self.better} is better"


@dataclass(frozen=True)
class MetricKind:
    """A row: a metric, and all that the rest of piflow knows about it.

    Attributes:
        measure: "module:function". For a metric that needs no STUDENT it turns a
            :class:`~piflow_cli.evaluation.distributions.Sides` into a list of
            :class:`~piflow_cli.evaluation.distributions.Measure`; for the others it turns a
            :class:`~piflow_cli.evaluation.measuring.Measuring` into an iterator of
            :class:`~piflow_cli.evaluation.rows.Row`.
        numbers: the numbers that it gives.
        needs: some of the needs above.
        cost: one of COSTS.
        package: a package that must be installed, as Python imports it, and as pip installs it.
        extractor: "module:function" that opens the metric's own extractor, a
            :class:`~piflow_cli.evaluation.generate.MetricExtractor`, from the request and the device.
        refuse: "module:function" that raises UsageError if a student
            (:class:`~piflow_cli.evaluation.compared.Compared`) cannot have the metric that was named.
        option: an option of the command line for this metric alone.
        fewest: pictures of a side, below which there is no number; for metrics that need no STUDENT. A covariance takes
            two.

    Raises:
        ValueError: a need or a cost is none of these.
    """

    name: str
    measure: str
    numbers: tuple[Number, ...]
    needs: frozenset[str]
    cost: str = COSTS[-1]
    package: tuple[str, str] | None = None
    extractor: str | None = None
    refuse: str | None = None
    option: str | None = None
    fewest: int = 2

    def __post_init__(self) -> None:
        if unknown := sorted(self.needs - NEEDS):
            raise ValueError(
                f"the metric {self.name} needs {unknown[0]!r}, which is none of {', '.join(sorted(NEEDS))}"
            )
        if self.cost not in COSTS:
            raise ValueError(f"the metric {self.name} costs {self.cost!r}, which is none of {', '.join(COSTS)}")
