"""From findings to numbers, which reports show and advice reads."""

from __future__ import annotations

import torch

from ..core.timegrid import to_sigma
from ..sampling.trajectory import relative_error
from .analysis import EvaluationFindings, Findings
from .kinds.anatomy import Anatomy, anatomy_named
from .motion import Motion
from .numbers import Perturbation, Pushed, Robustness, Step, Summary, TeacherRobustness
from .robustness import SIZES, TYPICAL, Response, passive, shares, size_name, steering
from .substeps import SUBSTEPS, enough, relative_errors
from .teacher_robustness import Pushes, gains, pushed_states, velocity_errors
from .tensors import present, root_mean


def summarise(found: Findings) -> Summary:
    """The numbers of one student."""
    facts = found.facts
    anatomy = anatomy_named(facts.policy)
    steps = [_step(evaluation, anatomy, facts.shift, facts.segment) for evaluation in found.evaluations]
    errors = [error for evaluation in found.evaluations for error in evaluation.errors or ()]
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
        teacher_robustness=_teacher_robustness(found, facts.shift),
        straightness=found.straightness.mean().item(),
        trajectory_error=relative_error(errors) if errors else None,
        endpoint_error=None if found.gap is None else found.gap.mean().sqrt().item(),
    )


def _step(evaluation: EvaluationFindings, anatomy: Anatomy, shift: float, span: float) -> Step:
    substep_errors = relative_errors(evaluation.convergence)
    errors = None
    if evaluation.errors is not None:
        names = ("raw", "sigma", "squared", "teacher", "relative")
        errors = [{name: getattr(error, name) for name in names} for error in evaluation.errors]
    return Step(
        step=evaluation.index + 1,
        raws=list(evaluation.raws),
        sigmas=[to_sigma(raw, shift) for raw in evaluation.raws],
        part=None
        if anatomy.summarise is None
        else anatomy.summarise(evaluation.composition, evaluation.switching, evaluation.raws[0], span),
        **_motion(evaluation.motion),
        substeps=list(SUBSTEPS),
        substep_errors=substep_errors,
        substeps_enough=enough(substep_errors),
        velocity_error=errors,
        gap=None if evaluation.apart is None else root_mean(evaluation.apart.gap),
        teacher_speed=None if evaluation.apart is None else root_mean(evaluation.apart.teacher_speed),
    )


def _motion(motion: Motion) -> dict:
    return {
        "speed": root_mean(motion.speed.square()),
        "turn": motion.turn.mean(dim=0).tolist(),
        "straightness": motion.straightness.mean().item(),
    }


def _robustness(found: Findings, shift: float) -> Robustness:
    evaluation, close = found.evaluations[found.at - 1], found.close
    start, end = evaluation.raws[(len(evaluation.raws) - 1) // 2], evaluation.raws[-1]
    times = next(iter(close.responses.values())).left.shape[1]
    distance = evaluation.convergence.distance.mean().sqrt().item()
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


def _teacher_robustness(found: Findings, shift: float) -> TeacherRobustness | None:
    parts = present(evaluation.pushes for evaluation in found.evaluations)
    if not parts:
        return None
    raws = [raw for evaluation in found.evaluations for raw in _pushed_raws(evaluation, len(found.evaluations))]
    pushes = Pushes(*(torch.cat(column, dim=1) for column in zip(*parts)))
    gain, error = gains(pushes), velocity_errors(pushes)
    # All times as if they were one: what is far off in small numbers counts for little.
    typical = Pushes(*(value[:, :, [SIZES.index(TYPICAL)]].flatten(0, 1).unsqueeze(1) for value in pushes))
    return TeacherRobustness(
        raws=raws,
        sigmas=[to_sigma(raw, shift) for raw in raws],
        pushed=[
            Pushed(size_name(size), gain[:, place].tolist(), error[:, place].tolist())
            for place, size in enumerate(SIZES)
        ],
        gain=gains(typical).item(),
        velocity_error=velocity_errors(typical).item(),
    )


def _pushed_raws(evaluation: EvaluationFindings, segments: int) -> list[float]:
    raws = evaluation.raws[:-1]
    return [raws[place] for place in pushed_states(evaluation.index, len(raws), segments)]
