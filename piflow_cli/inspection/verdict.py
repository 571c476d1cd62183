"""The verdict: a student on one screen, with the advice on each number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..core.policies.kinds import policy_class, policy_kind
from .advice import Advice
from .kinds.anatomy import anatomy_named
from .numbers import Summary
from .robustness import MEASURED, TYPICAL, size_name
from .substeps import ENOUGH

FINE = "fine"
# Which advice is about a line.
ABOUT = {
    "components in effect": ("collapsed mixture", "dead components", "weights never move"),
    "log-std": ("log-std at its edge",),
    "substeps enough": ("too few substeps",),
    "velocity error": ("error at the start", "error at the end", "teacher off-distribution"),
    "steering back": ("does not steer back",),
}


def verdict_rows(summaries: Sequence[Summary], names: Sequence[str], warned: Sequence[Sequence[Advice]]) -> list[dict]:
    """A row for each number, with a value for each student by its name, and a verdict if there is one student."""
    values = [dict(_values(summary)) for summary in summaries]
    rows = []
    for what in dict.fromkeys(what for column in values for what in column):
        row: dict[str, object] = {"what": what}
        row |= {name: column.get(what) for name, column in zip(names, values, strict=True)}
        if len(summaries) == 1:
            row["verdict"] = _verdict(what, summaries[0], warned[0])
        rows.append(row)
    return rows


def _verdict(what: str, summary: Summary, warned: Sequence[Advice]) -> str:
    if what == "steering back" and (always := policy_kind(summary.policy).words.reaction) is not None:
        return always
    named = [item.name for item in warned if item.name in (*ABOUT.get(what, ()), "not finite")]
    return ", ".join(dict.fromkeys(named)) if named else FINE if what in ABOUT else ""


def _values(summary: Summary) -> Iterator[tuple[str, str | None]]:
    step = summary.close
    words = policy_kind(summary.policy).words
    yield (
        "policy",
        f"{words.title}, {summary.components} {words.parts}, NFE {summary.nfe}, {summary.iterations} iterations",
    )
    if summary.nfe > 1:
        yield "evaluation", f"{step.step} of {summary.nfe}, raw time {step.raws[0]:.3g} to {step.raws[-1]:.3g}"
    if step.part is not None:
        yield from anatomy_named(summary.policy).lines(step.part)
    yield "straightness", f"{summary.straightness:.3f}"
    yield "substeps enough", _substeps(summary)
    if summary.trajectory_error is not None:
        yield "velocity error", f"{summary.trajectory_error:.1%} of the teacher's square"
    if summary.endpoint_error is not None:
        yield "distance of samples", f"{summary.endpoint_error:.3f} rms to the teacher's, same noise"
    yield from _steering(summary)
    if (pushed := summary.teacher_robustness) is not None:
        yield (
            "teacher off its path",
            f"{pushed.velocity_error:.1%} velocity error after noise of {size_name(TYPICAL)},"
            f" x_0 moves by {pushed.gain:.2f} of it",
        )


def _substeps(summary: Summary) -> str:
    if policy_class(summary.policy).exact:
        return "none are taken: the way has a closed form"
    fewest = [step.substeps_enough for step in summary.steps if step.substeps_enough is not None]
    short = len(fewest) < len(summary.steps)
    enough = f"more than {summary.close.substeps[-1]}" if short else f"{max(fewest)}"
    return f"{enough} for {ENOUGH:.0%} (sampled with {summary.substeps})"


def _steering(summary: Summary) -> Iterator[tuple[str, str]]:
    by_size = {item.size: item for item in summary.robustness.perturbations}
    own = by_size.get(MEASURED)
    noise = by_size[size_name(TYPICAL)]
    yield (
        "noise left at the end",
        f"{noise.left[-1]:.1%} of {noise.size}; {summary.robustness.passive:.1%} without a reaction",
    )
    if own is not None and own.steering is not None:
        yield "steering back", f"{own.steering:.0%} of the teacher's answer to the student's own error"
