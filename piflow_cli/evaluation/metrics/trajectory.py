"""Trajectory error: a student's policies against its teacher's velocity along the student's own path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ...sampling.request import ImageSpec, batches
from ...sampling.teacher import OwnTeacher
from ...sampling.trajectory import POINTS, VelocityError, pooled, relative_error, velocity_errors, walk
from ..rows import Row

if TYPE_CHECKING:
    from ...sampling.opened import OpenedModel
    from ..measuring import Measuring

# Pictures whose paths are followed: as many as `piflow inspect-policy` takes.
PATHS = 16


def trajectories(measuring: Measuring) -> Iterator[Row]:
    compared, request = measuring.compared, measuring.request
    for candidate in compared.students:
        settings: dict[str, Any] = {
            "steps": candidate.evaluations,
            "substeps": request.substeps,
            "temperature": request.temperature,
        }
        specs = measuring.generation.specs
        errors = trajectory_errors(
            compared.opened, measuring.teacher, specs, measuring.generation.batch_size, **settings
        )
        measuring.report.errors[candidate.title] = (candidate.name, errors)
        detail = f"at {POINTS} times of each evaluation"
        yield measuring.row(candidate, "velocity-error", relative_error(errors), min(PATHS, len(specs)), detail=detail)


def trajectory_errors(
    opened: OpenedModel,
    teacher: OwnTeacher,
    specs: Sequence[ImageSpec],
    batch_size: int,
    *,
    steps: int | None = None,
    substeps: int | None = None,
    temperature: float | str | None = None,
) -> list[VelocityError]:
    """Errors at POINTS times of each evaluation, in the order of the path, pooled over the first PATHS ``specs``."""
    student = opened.student
    settings: dict[str, Any] = {"steps": steps, "substeps": substeps, "temperature": temperature}
    measured = []
    for part in batches(specs[:PATHS], batch_size):
        conditioning = opened.conditioning(part)
        errors: list[VelocityError] = []
        with opened.computing():
            for path in walk(student, opened.noise(part), conditioning, **settings):
                errors += velocity_errors(
                    path, lambda x, sigma: teacher.velocity(x, sigma, conditioning), student.facts.shift
                )
        measured.append((len(part), errors))
    return pooled(measured)
