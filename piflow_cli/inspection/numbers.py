"""One student in numbers, as policy.json holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """One evaluation. ``raws`` and ``sigmas``: of the states that are looked at, the segment's end last. ``part``: what
    the policy's anatomy makes of it, a dataclass of its own; None where it has none.

    ``substep_errors`` by ``substeps``, relative to the way from source to end; ``substeps_enough``
    is None where the finest is not enough. ``gap``: root mean square distance of the student's
    states to the teacher's from the same noise.
    """

    step: int
    raws: list[float]
    sigmas: list[float]
    part: Any
    speed: list[float]
    turn: list[float]
    straightness: float
    substeps: list[int]
    substep_errors: list[float]
    substeps_enough: int | None
    velocity_error: list[dict] | None
    gap: list[float] | None
    teacher_speed: list[float] | None


@dataclass(frozen=True)
class Perturbation:
    """``given``: root mean square of what is added to the state, ``left`` and
    ``teacher_left``: shares of it by raw time."""

    size: str
    given: float
    left: list[float]
    teacher_left: list[float] | None
    steering: float | None


@dataclass(frozen=True)
class Robustness:
    """Perturbations at raw time ``raws[0]`` followed over ``raws`` to the segment's end, where ``passive`` of them is
    left if x_0 does not react. ``dropout``: root mean square change of the end when each component is left out, over
    the distance from source to end."""

    raws: list[float]
    sigma: float
    passive: float
    perturbations: list[Perturbation]
    dropout: list[float] | None


@dataclass(frozen=True)
class Summary:
    """One student in numbers. ``trajectory_error``: mean over all times of squared velocity error over the mean of the
    teacher's squares; ``endpoint_error``: root mean square distance of its samples to the teacher's, same noise."""

    student: str
    teacher: str
    policy: str
    components: int
    nfe: int
    shift: float
    substeps: int
    iterations: int
    shots: list[dict]
    at: int
    steps: list[Step]
    robustness: Robustness
    straightness: float
    trajectory_error: float | None
    endpoint_error: float | None

    @property
    def close(self) -> Step:
        """The evaluation that was looked at closely."""
        return self.steps[self.at - 1]
