"""Advice on a student: what is wrong, in words, and what to change."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from shlex import quote
from typing import TYPE_CHECKING

from .kinds.anatomy import anatomy_named
from .numbers import Step, Summary
from .remedies import AdviceParts, SettingOf, distilled_again, longer, more_dropout, set_key
from .robustness import MEASURED
from .substeps import ENOUGH

if TYPE_CHECKING:
    from ..presets.schema import Preset

CONCENTRATED = 0.67
UNUSUAL = 1.25
PASSING = 0.05


@dataclass(frozen=True)
class Advice:
    """One piece of advice: ``name`` for programs, ``text`` what was seen, ``remedy`` what to type."""

    name: str
    text: str
    remedy: str


def advice(summary: Summary, preset: Preset | None, command: str) -> list[Advice]:
    """All advice on a student; remedies start from the values of the ``preset`` that it was distilled with.

    ``command``: what distils it again, in another folder, up to the options that a remedy changes.
    """

    def setting(key: str, usual: float) -> float:
        if preset is None:
            return usual
        section, name = key.split(".")
        return getattr(getattr(preset, section), name)

    found = [] if _finite(asdict(summary)) else [_not_finite(setting)]
    found = found or _of_numbers(summary, setting)
    return [replace(item, remedy=distilled_again(item.remedy, command)) for item in found]


def _not_finite(setting: SettingOf) -> Advice:
    return Advice(
        "not finite",
        "the network emits values that are not finite, and all that follows from them is void",
        "piflow sample with --base-precision fp32; else distil again:"
        f" {set_key('optimisation.learning_rate', setting('optimisation.learning_rate', 1e-4) / 2)}",
    )


def _of_numbers(summary: Summary, setting: SettingOf) -> list[Advice]:
    found = []
    for step in summary.steps:
        where = "" if summary.nfe == 1 else f"evaluation {step.step}: "
        found += [Advice(name, where + text, remedy) for name, text, remedy in _of_step(step, summary, setting)]
    found += [Advice(*parts) for parts in _of_robustness(summary, setting)]
    return found


def _of_step(step: Step, summary: Summary, setting: SettingOf) -> Iterator[AdviceParts]:
    if step.part is not None:
        yield from anatomy_named(summary.policy).advice(step.part, setting)
    if step.substeps_enough is None or step.substeps_enough > summary.substeps:
        wanted = step.substeps[-1] if step.substeps_enough is None else step.substeps_enough
        at_least = "more than " if step.substeps_enough is None else ""
        yield (
            "too few substeps",
            (
                f"{summary.substeps} substeps are too few to follow this policy to {ENOUGH:.0%} of its way; it takes"
                f" {at_least}{wanted}"
            ),
            (
                f"piflow sample {quote(summary.student)} --substeps {wanted}; in training:"
                f" {set_key('policy.substeps', wanted)}"
            ),
        )
    if step.velocity_error is not None:
        yield from _of_errors(step, setting)


def _of_errors(step: Step, setting: SettingOf) -> Iterator[AdviceParts]:
    squares = [error["squared"] for error in step.velocity_error or ()]
    quarter = len(squares) // 4
    total = sum(squares)
    window = max(3, 2 * int(setting("imitation.window", 5)))
    if quarter and total > 0:
        first, last = sum(squares[:quarter]) / total, sum(squares[-quarter:]) / total
        if first > CONCENTRATED:
            shift = 2 * setting("policy.shift", 1.0)
            yield (
                "error at the start",
                f"{first:.0%} of the velocity error is in the first quarter of the segment",
                (
                    f"{set_key('policy.shift', shift)} spends more steps there; more states do too:"
                    f" {set_key('imitation.states', 4)}"
                ),
            )
        if last > CONCENTRATED:
            substeps = 2 * setting("policy.substeps", 128)
            yield (
                "error at the end",
                f"{last:.0%} of the velocity error is in the last quarter of the segment",
                f"{set_key('imitation.window', window)}, then {set_key('policy.substeps', substeps)}",
            )
    measured = zip(step.velocity_error or (), step.teacher_speed or ())
    ratios = [error["teacher"] ** 0.5 / max(own, 1e-12) for error, own in measured]
    unusual = max(ratios, key=lambda ratio: abs(math.log(max(ratio, 1e-12))))
    if not 1 / UNUSUAL <= unusual <= UNUSUAL:
        mixing = max(2000, 2 * int(setting("imitation.mixing_iterations", 0)))
        yield (
            "teacher off-distribution",
            f"at the student's states the teacher's velocity has {unusual:.2f} times the size it has on its own path",
            set_key("imitation.mixing_iterations", mixing),
        )


def _of_robustness(summary: Summary, setting: SettingOf) -> Iterator[AdviceParts]:
    measured = [item.steering for item in summary.robustness.perturbations if item.size == MEASURED]
    if not anatomy_named(summary.policy).steers or not measured or measured[0] is None:
        return
    if measured[0] < PASSING:
        yield (
            "does not steer back",
            f"after an error of its own size the policy gives {measured[0]:.0%} of the teacher's answer",
            f"{more_dropout(setting)}, or {longer(setting)}",
        )


def _finite(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    return not isinstance(value, (list, tuple)) or all(map(_finite, value))
