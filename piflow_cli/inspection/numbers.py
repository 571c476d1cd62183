"""The numbers of one student, as policy.json holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """The numbers of one evaluation.

    ``raws`` and ``sigmas``: of the measured states, the segment's end last. ``part``: the dataclass of the policy's
    anatomy; None where it has none. ``substep_errors``: by ``substeps``, relative to the way from source to end.
    ``substeps_enough``: None where the finest is not enough. ``gap``: root mean square distance of the student's states
    to the teacher's from the same noise.
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
    """One perturbation.

    ``given``: root mean square of what is added to the state. ``left`` and ``teacher_left``: shares of it by raw time.
    """

    size: str
    given: float
    left: list[float]
    teacher_left: list[float] | None
    steering: float | None


@dataclass(frozen=True)
class Robustness:
    """Perturbations at raw time ``raws[0]``, followed over ``raws`` to the segment's end.

    ``passive``: the share of them that is left if x_0 does not react. ``dropout``: root mean square change of the end
    when each component is left out, over the distance from source to end.
    """

    raws: list[float]
    sigma: float
    passive: float
    perturbations: list[Perturbation]
    dropout: list[float] | None


@dataclass(frozen=True)
class Pushed:
    """States of the teacher's own path with noise of one size added, by their times.

    ``gain``: the change of its x_0 over the push; ``velocity_error``: of its answer, over the velocity that leads from
    the pushed state to the x_0 of the path (root mean squares).
    """

    size: str
    gain: list[float]
    velocity_error: list[float]


@dataclass(frozen=True)
class TeacherRobustness:
    """The teacher's answers off its own path, at raw times ``raws``.

    ``gain`` and ``velocity_error``: of noise of the size that the figures call typical, over all times.
    """

    raws: list[float]
    sigmas: list[float]
    pushed: list[Pushed]
    gain: float
    velocity_error: float


@dataclass(frozen=True)
class Summary:
    """The numbers of one student.

    ``trajectory_error``: mean over all times of squared velocity error over the mean of the teacher's squares.
    ``endpoint_error``: root mean square distance of its samples to the teacher's from the same noise.
    """

    student: str
    teacher: str
    policy: str
    components: int
    nfe: int
    shift: float
    substeps: int
    iterations: int
    shots: list[dict]  # policy.json has them under this name since 0.1.0
    at: int
    steps: list[Step]
    robustness: Robustness
    teacher_robustness: TeacherRobustness | None
    straightness: float
    trajectory_error: float | None
    endpoint_error: float | None

    @property
    def close(self) -> Step:
        """The evaluation of the close-up."""
        return self.steps[self.at - 1]
