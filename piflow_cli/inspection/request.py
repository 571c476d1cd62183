"""The request of `piflow inspect-policy`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..sampling.limits import BasePrecision, faults_of, listed

JSON_NAME = "policy.json"
MOST_STUDENTS = 2


@dataclass(frozen=True)
class Position:
    """A position of the state: column ``x`` and row ``y``, from 0, and the channel ``axis`` of a slice.

    Of a video it is in the middle of its latent frames.
    """

    x: int
    y: int
    axis: int = 0

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise UsageError unless the position lies in a state of ``shape`` (C, H, W) or (C, F, H, W)."""
        channels, *_, height, width = shape
        if not (0 <= self.x < width and 0 <= self.y < height):
            raise UsageError(
                f"--slice: position {self.x},{self.y} is outside the state, which has {width} columns and {height}"
                " rows",
                f"columns run from 0 to {width - 1} and rows from 0 to {height - 1}: --slice"
                f" {width // 2},{height // 2}",
            )
        if not 0 <= self.axis < channels:
            raise UsageError(
                f"--slice: axis {self.axis} is no channel of the state, which has {channels}",
                f"channels run from 0 to {channels - 1}: --slice {self.x},{self.y},0",
            )


@dataclass(frozen=True)
class InspectRequest:
    """The command's options; None stands for "as the student was trained".

    ``students``: one, or two that share figures. ``at``: the evaluation of the close-up, from 1.
    ``frames``: of each video. ``position``: where to cut a slice. ``output``: the folder that takes the report; None:
    none is written.
    """

    students: tuple[str, ...]
    labels: tuple[int, ...] | None = None
    prompts: tuple[str, ...] = ()
    prompts_from: str | None = None
    text_column: str | None = None
    seeds: tuple[int, ...] | None = None
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    at: int = 1
    position: Position | None = None
    teacher: str | None = None
    base: str | None = None
    subfolder: str | None = None
    vae: str | None = None
    base_precision: BasePrecision | None = None
    output: Path | None = None
    overwrite: bool = False
    device: str = "auto"

    def check(self) -> None:
        """Raise UsageError with everything that fits no student."""
        faults = list(faults_of(self))
        if not 1 <= len(self.students) <= MOST_STUDENTS:
            faults.append(f"{len(self.students)} students are named: a report is of one, or of two over each other")
        if faults:
            raise UsageError(listed(faults), "piflow inspect-policy --help lists what there is")
