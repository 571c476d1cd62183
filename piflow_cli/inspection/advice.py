"""Advice on a student: what is wrong, in words, and what to change."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from .kinds.mixture import MixtureSummary
from .kinds.momentum import MomentumSummary
from .numbers import Step, Summary
from .robustness import MEASURED
from .substeps import ENOUGH

if TYPE_CHECKING:
    from ..presets.schema import Preset

COLLAPSED = 1.2
# The head has no clamp; outside of this range a width has lost its use: e^-8 is a point, and e is wider than the data.
LOGSTD_RANGE = (-8.0, 1.0)
STILL = 0.01
CONCENTRATED = 0.67
UNUSUAL = 1.25
PASSING = 0.05


@dataclass(frozen=True)
class Advice:
    """One piece of advice: ``name`` for programs, ``text`` what was seen, ``remedy`` what to type."""

    name: str
    text: str
    remedy: str


SettingOf = Callable[[str, float], float]
"""A dotted key of the student's preset, and a value for where the preset is not at hand."""


def advice(summary: Summary, preset: Preset | None) -> list[Advice]:
    """All advice on a student; remedies start from the values of the ``preset`` that it was distilled with."""

    def setting(key: str, usual: float) -> float:
        if preset is None:
            return usual
        section, name = key.split(".")
        return getattr(getattr(preset, section), name)

    if not _finite(asdict(summary)):
        return [
            Advice(
                "not finite",
                "the network emits values that are not finite, and all that follows from them is void",
                "piflow sample with --base-precision fp32; else distil again with"
                f" {_set('optimisation.learning_rate', setting('optimisation.learning_rate', 1e-4) / 2)}",
            )
        ]
    found = []
    for step in summary.steps:
        where = "" if summary.nfe == 1 else f"evaluation {step.step}: "
        found += [Advice(name, where + text, remedy) for name, text, remedy in _of_step(step, summary, setting)]
    found += [Advice(*parts) for parts in _of_robustness(summary, setting)]
    return found


AdviceParts = tuple[str, str, str]


def _of_step(step: Step, summary: Summary, setting: SettingOf) -> Iterator[AdviceParts]:
    if isinstance(step.part, (MixtureSummary, MomentumSummary)):
        yield from _of_components(step.part, setting)
    if isinstance(step.part, MixtureSummary):
        yield from _of_mixture(step.part, setting)
    if step.substeps_enough is None or step.substeps_enough > summary.substeps:
        wanted = step.substeps[-1] if step.substeps_enough is None else step.substeps_enough
        at_least = "more than " if step.substeps_enough is None else ""
        yield (
            "too few substeps",
            (
                f"{summary.substeps} substeps are too few to follow this policy to {ENOUGH:.0%} of its way; it takes"
                f" {at_least}{wanted}"
            ),
            f"piflow sample --substeps {wanted}; in training {_set('policy.substeps', wanted)}",
        )
    if step.velocity_error is not None:
        yield from _of_errors(step, setting)


def _of_components(mixture: MixtureSummary | MomentumSummary, setting: SettingOf) -> Iterator[AdviceParts]:
    components, fewest = mixture.components, 1 if isinstance(mixture, MixtureSummary) else 2
    dropout = min(0.5, max(0.05, 2 * setting("imitation.dropout", 0.05)))
    if components > fewest and mixture.effective[1] < COLLAPSED:
        used = "one and the same everywhere" if mixture.effective_overall < COLLAPSED else "one at a position"
        yield (
            "collapsed mixture",
            f"of {components} components {used} is in effect ({mixture.effective[1]:.2f} at half of the positions)",
            (
                f"{_set('imitation.dropout', dropout)} makes others matter; if one is enough,"
                f" {_set('policy.components', fewest)}"
            ),
        )
    elif mixture.dead:
        names = ", ".join(str(index) for index in mixture.dead)
        yield (
            "dead components",
            f"{len(mixture.dead)} of {components} components have no weight anywhere: {names} (counted from 0)",
            (
                f"{_set('policy.components', max(fewest, components - len(mixture.dead)))}, or"
                f" {_set('imitation.dropout', dropout)}"
            ),
        )


def _of_mixture(mixture: MixtureSummary, setting: SettingOf) -> Iterator[AdviceParts]:
    components = mixture.components
    dropout = min(0.5, max(0.05, 2 * setting("imitation.dropout", 0.05)))
    low, high = mixture.logstd_range
    if low < LOGSTD_RANGE[0] or high > LOGSTD_RANGE[1]:
        width = "points" if low < LOGSTD_RANGE[0] else "wider than the data"
        yield (
            "log-std at its edge",
            f"the log-std runs from {low:.2f} to {high:.2f}: components are {width}, and their width has no use",
            _set("optimisation.learning_rate", setting("optimisation.learning_rate", 1e-4) / 2),
        )
    if components > 1 and mixture.effective[1] >= COLLAPSED and mixture.shift < STILL:
        yield (
            "weights never move",
            f"the weights change by {mixture.shift:.2g} at most from source to end: the mixture acts like its mean",
            f"{_longer(setting)}, or {_set('imitation.dropout', dropout)}",
        )


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
                    f"{_set('policy.shift', shift)} spends more steps there; more states do too:"
                    f" {_set('imitation.states', 4)}"
                ),
            )
        if last > CONCENTRATED:
            substeps = 2 * setting("policy.substeps", 128)
            yield (
                "error at the end",
                f"{last:.0%} of the velocity error is in the last quarter of the segment",
                f"{_set('imitation.window', window)}, then {_set('policy.substeps', substeps)}",
            )
    measured = zip(step.velocity_error or (), step.teacher_speed or ())
    ratios = [error["teacher"] ** 0.5 / max(own, 1e-12) for error, own in measured]
    unusual = max(ratios, key=lambda ratio: abs(math.log(max(ratio, 1e-12))))
    if not 1 / UNUSUAL <= unusual <= UNUSUAL:
        mixing = max(2000, 2 * int(setting("imitation.mixing_iterations", 0)))
        yield (
            "teacher off-distribution",
            f"at the student's states the teacher's velocity has {unusual:.2f} times the size it has on its own path",
            _set("imitation.mixing_iterations", mixing),
        )


def _of_robustness(summary: Summary, setting: SettingOf) -> Iterator[AdviceParts]:
    measured = [item.steering for item in summary.robustness.perturbations if item.size == MEASURED]
    if not isinstance(summary.close.part, MixtureSummary) or not measured or measured[0] is None:
        return
    if measured[0] < PASSING:
        dropout = min(0.5, max(0.05, 2 * setting("imitation.dropout", 0.05)))
        yield (
            "does not steer back",
            f"after an error of its own size the policy gives {measured[0]:.0%} of the teacher's answer",
            f"{_set('imitation.dropout', dropout)}, or {_longer(setting)}",
        )


def _longer(setting: SettingOf) -> str:
    # A run whose rate follows a cosine cannot be made longer afterwards.
    iterations = 2 * int(setting("optimisation.iterations", 10_000))
    return f"train for longer, in a folder of its own: --iterations {iterations} --output DIR"


def _set(key: str, value: float) -> str:
    return f"--set {key}={value:g}"


def _finite(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    return not isinstance(value, (list, tuple)) or all(map(_finite, value))
