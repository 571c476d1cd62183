"""piflow with one piece replaced: ideas of ideas.py that are no settings, and what claims of other teachers compare.

    python tests/benchmarks/idea_variants.py NAME distill --teacher digits ...

What follows NAME is a command line of piflow. A variant lasts as long as its process; all that is not in its row is
piflow's own. Most students of a variant are students like all others. Those whose network or policy is another can be
opened under their variant alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

from variants import draws, frames, gains, heads, substeps, training, walks, weights
from variants.pieces import replace_mixtures

# Standard deviations of the shipped digits, per value and in the direction of the largest.
TYPICAL, LARGEST = 0.54, 1.67

VARIANTS: dict[str, Callable[[], None]] = {
    "reaching-bound": partial(weights.weighted, weights.reaching(LARGEST)),
    "reaching-typical": partial(weights.weighted, weights.reaching(TYPICAL)),
    "x0-below-half": partial(weights.weighted, weights.of_x_0_below(0.5)),
    "x0": partial(weights.weighted, weights.of_x_0_below(1.0)),
    "denser-near-noise": partial(draws.denser, 2.0),
    "denser-near-data": partial(draws.denser, 0.5),
    "two-rollouts": partial(walks.rollouts, 2),
    "four-rollouts": partial(walks.rollouts, 4),
    "perturbed-rollout": partial(walks.rollouts, 2, 0.3),
    "through": walks.through,
    "over-segments": walks.over_segments,
    "ends": walks.ends,
    "neighbours": partial(walks.neighbours, 4),
    "elastic": partial(draws.elastic, (1, 2, 4)),
    "midpoint": partial(substeps.reaching_ahead, 0.5),
    "head-thrice": partial(training.head_rate, 3.0),
    "head-third": partial(training.head_rate, 1 / 3),
    "chosen-average": training.chosen_average,
    "by-segment": heads.by_segment,
    "variances": partial(replace_mixtures, "variants.families:VARIANCES"),
    "drift": partial(replace_mixtures, "variants.families:DRIFT"),
    "low-rank": partial(replace_mixtures, "variants.families:LOW_RANK"),
    "frames-apart": frames.apart,
    "gain-16": partial(gains.bounded, 16.0),
    "gain-4": partial(gains.bounded, 4.0),
}


def apply(name: str) -> None:
    """Replace what the variant replaces, in this process."""
    VARIANTS[name]()


def main() -> int:
    name, *arguments = sys.argv[1:]
    if name not in VARIANTS:
        raise SystemExit(f"there is no variant {name}; known: {', '.join(VARIANTS)}")
    apply(name)
    from piflow_cli.app import main as piflow

    return piflow(arguments)


if __name__ == "__main__":
    sys.exit(main())
