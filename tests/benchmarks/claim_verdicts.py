"""Whether a difference between students is more than the spread of their seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from claim_table import Comparison

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
ALIKE = 0.1  # of the second mean: less is no difference


@dataclass(frozen=True)
class Judged:
    """A comparison with its means, their difference (better - worse) and the half width of its 95 % interval."""

    expected: str
    figure: str
    better: float
    worse: float
    difference: float
    margin: float
    verdict: str


def judge(asked: Comparison, figures: Mapping[str, Sequence[Mapping[str, float]]]) -> Judged:
    """Compare the means over seeds by Welch's interval: unequal variances, few samples.

    The seeds are not paired: a student's noise and batches depend on its settings too.
    """
    first, second = ([one[asked.figure] for one in figures[name]] for name in (asked.better, asked.worse))
    better, worse = statistics.fmean(first), statistics.fmean(second)
    difference, margin = better - worse, half_width(first, second)
    bound = 0.0 if asked.apart else ALIKE * abs(worse)
    sign = "<" if asked.apart else "~"
    return Judged(
        f"{asked.better} {sign} {asked.worse}",
        asked.figure,
        better,
        worse,
        difference,
        margin,
        _apart(difference, margin) if asked.apart else _alike(difference, margin, bound),
    )


def _apart(difference: float, margin: float) -> str:
    if difference + margin < 0:
        return HOLDS
    return FAILS if difference - margin > 0 else UNDECIDED


def _alike(difference: float, margin: float, bound: float) -> str:
    if abs(difference) + margin < bound:
        return HOLDS
    return FAILS if abs(difference) - margin > bound else UNDECIDED


def half_width(first: Sequence[float], second: Sequence[float]) -> float:
    """Half of the 95 % interval of the difference of two means (Welch, 1947), degrees of freedom by Satterthwaite."""
    parts = [statistics.variance(values) / len(values) for values in (first, second)]
    total = sum(parts)
    if total == 0:
        return 0.0
    freedom = total**2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, (first, second)))
    return student_quantile(freedom) * math.sqrt(total)


def student_quantile(freedom: float) -> float:
    """The 97.5 % quantile of Student's t, for real degrees of freedom of at least 1."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))


def verdict(comparisons: Sequence[Judged]) -> str:
    """Of a claim: it holds where all its comparisons do, and does not where one of them goes the other way."""
    found = {one.verdict for one in comparisons}
    if FAILS in found:
        return FAILS if HOLDS not in found else "holds in part"
    return HOLDS if found == {HOLDS} else UNDECIDED
