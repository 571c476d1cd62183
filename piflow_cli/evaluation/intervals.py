"""What a Frechet distance from few samples says of the distance from many."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .statistics import Moments

GROUPS = 20
TARGET = 10_000


@dataclass(frozen=True)
class Interval:
    """Where the Frechet distance of ``at`` samples is expected, from ``count`` of them.

    ``measured`` is the distance of the samples at hand, biased upwards because they are few; ``estimate`` is without the part
    of that bias that ``at`` samples do not have; [``low``, ``high``] holds the value of ``at`` samples with probability ``level``.
    ``infinite`` is the estimate for endless samples. ``trusted`` is False where there are fewer samples than features, whose
    distance does not fall as 1/N yet: then the interval is too optimistic.
    """

    measured: float
    estimate: float
    low: float
    high: float
    infinite: float
    count: int
    at: int
    level: float
    trusted: bool


def frechet_interval(
    features: Tensor, reference: Moments, *, at: int = TARGET, groups: int = GROUPS, level: float = 0.95, seed: int = 0
) -> Interval:
    """The Frechet distance to ``reference`` that ``at`` samples would show, judged from ``features`` (N, D).

    The expected distance is linear in 1/N (Chong and Forsyth, arXiv 1911.07023), so that leaving out one of G groups in turn
    tells both the slope and the spread: the delete-a-group jackknife (Quenouille 1956, Tukey 1958).

    Raises:
        UsageError: fewer than two samples a group.
        RunError: a value is not finite.
    """
    raise NotImplementedError
