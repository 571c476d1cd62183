"""Findings boiled down to numbers: what policy.json holds, and what warnings are read off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core.timegrid import to_sigma
from ..sampling.trajectory import relative_error
from .analysis import Findings, Segment
from .kinds.dx import Curve, grid_summary
from .kinds.mixture import MixedNumbers, mixture_summary
from .kinds.momentum import SpectrumNumbers, momentum_summary
from .motion import Motion
from .robustness import Response, passive, shares, steering
from .substeps import SUBSTEPS, enough, relative_errors
from .tensors import root_mean

if TYPE_CHECKING:
    from .kinds.dx import Grid
    from .kinds.mixture import Mixture
    from .kinds.momentum import Momentum


@dataclass(frozen=True)
class Step:
    """One evaluation. ``raws`` and ``sigmas``: of the states that are looked at, the segment's end last.

    ``substep_errors`` by ``substeps``, relative to the way from source to end; ``substeps_enough``
    is None where the finest is not enough. ``gap``: root mean square distance of the student's
    states to the teacher's from the same noise.
    """

    step: int
    raws: list[float]
    sigmas: list[float]
    mixture: Mixture | None
    momentum: Momentum | None
    grid: Grid | None
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


def summarise(found: Findings) -> Summary:
    """The numbers of one student."""
    facts = found.facts
    steps = [_step(segment, facts.shift, facts.segment) for segment in found.segments]
    errors = [error for segment in found.segments for error in segment.errors or ()]
    return Summary(
        student=str(found.path),
        teacher=facts.teacher,
        policy=facts.policy,
        components=facts.components,
        nfe=facts.nfe,
        shift=facts.shift,
        substeps=facts.substeps,
        iterations=facts.iterations,
        # Reports name them so since 0.1.0.
        shots=[spec.recipe for spec in found.specs],
        at=found.at,
        steps=steps,
        robustness=_robustness(found, facts.shift),
        straightness=found.straightness.mean().item(),
        trajectory_error=relative_error(errors) if errors else None,
        endpoint_error=None if found.gap is None else found.gap.mean().sqrt().item(),
    )


def _step(segment: Segment, shift: float, span: float) -> Step:
    substep_errors = relative_errors(segment.convergence)
    composition = segment.composition
    errors = None
    if segment.errors is not None:
        names = ("raw", "sigma", "squared", "teacher", "relative")
        errors = [{name: getattr(error, name) for name in names} for error in segment.errors]
    return Step(
        step=segment.index + 1,
        raws=list(segment.raws),
        sigmas=[to_sigma(raw, shift) for raw in segment.raws],
        mixture=mixture_summary(composition, segment.switching)
        if isinstance(composition, MixedNumbers) and segment.switching is not None
        else None,
        momentum=momentum_summary(composition) if isinstance(composition, SpectrumNumbers) else None,
        grid=grid_summary(composition, segment.raws[0], min(span, segment.raws[0]))
        if isinstance(composition, Curve)
        else None,
        **_motion(segment.motion),
        substeps=list(SUBSTEPS),
        substep_errors=substep_errors,
        substeps_enough=enough(substep_errors),
        velocity_error=errors,
        gap=None if segment.apart is None else root_mean(segment.apart.gap),
        teacher_speed=None if segment.apart is None else root_mean(segment.apart.teacher_speed),
    )


def _motion(motion: Motion) -> dict:
    return {
        "speed": root_mean(motion.speed.square()),
        "turn": motion.turn.mean(dim=0).tolist(),
        "straightness": motion.straightness.mean().item(),
    }


def _robustness(found: Findings, shift: float) -> Robustness:
    segment, close = found.segments[found.at - 1], found.close
    start, end = segment.raws[(len(segment.raws) - 1) // 2], segment.raws[-1]
    times = next(iter(close.responses.values())).left.shape[1]
    distance = segment.convergence.distance.mean().sqrt().item()
    return Robustness(
        raws=[start + (end - start) * part / (times - 1) for part in range(times)],
        sigma=to_sigma(start, shift),
        passive=passive(start, end, shift),
        perturbations=[_perturbation(name, response) for name, response in close.responses.items()],
        dropout=None if close.dropout is None else [value / max(distance, 1e-30) for value in root_mean(close.dropout)],
    )


def _perturbation(name: str, response: Response) -> Perturbation:
    return Perturbation(
        size=name,
        given=response.given.mean().sqrt().item(),
        left=shares(response.given, response.left),
        teacher_left=None if response.lasting is None else shares(response.given, response.lasting),
        steering=steering(response),
    )
