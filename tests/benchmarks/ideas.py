"""Ideas for better students of digits, each against the published recipe at equal cost.

    python tests/benchmarks/ideas.py --runs RUNS [--only NAME,...] [--seeds 0,1,2] [--json FILE]

Cost is the number of network evaluations of the whole training, a student's backward pass counted as two, as
`metrics.jsonl` counts them: an idea whose iterations take more has fewer of them. Students are distilled by
`piflow distill --teacher digits` and measured by digits.py's distances; RUNS keeps both. Intervals are those of the
claims. What loses stays in the table. The file is written after every idea.

An idea that trains on what a distance measures may win by it and make worse pictures. So two distances judge: on
pixels, and on the features of the shipped classifier, which no training sees.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from claim_runs import Measured, Study, add_options, asked_for, make_all, seeds_of
from claim_table import Arm, Comparison
from claim_verdicts import Judged, judge
from common import machine, write_json

from piflow_cli.console import format_table
from piflow_cli.presets.resolve import Preset, load, resolve
from piflow_cli.training.settings import network_evaluations

BASE = "published"
JUDGES = ("to_data", "by_classifier")
FIGURES = (*JUDGES, "to_teacher", "squared_distance")
COLUMNS = ("idea", "iterations", *(f"{name} {judge}" for judge in JUDGES for name in ("mean", "published", "verdict")))


@dataclass(frozen=True)
class Idea:
    """``settings`` of `piflow distill`, over those of the published recipe."""

    name: str
    settings: tuple[str, ...] = ()

    @property
    def arm(self) -> Arm:
        """The student: as many iterations as the evaluations of the published recipe's pay for."""
        own, published = resolved(self.settings), load("digits").optimisation.iterations
        iterations = round(cost() / network_evaluations(own))
        equal = () if iterations == published else (f"optimisation.iterations={iterations}",)
        return Arm(settings=self.settings + equal)


def resolved(settings: Sequence[str]) -> Preset:
    return resolve("digits", None, list(settings), {})


def cost() -> int:
    """Network evaluations of the published recipe."""
    preset = load("digits")
    return preset.optimisation.iterations * network_evaluations(preset)


IDEAS = (
    Idea(BASE),
    Idea("best", ("recipe=best",)),
    Idea("energy 8", ("imitation.energy=8",)),
    Idea("energy 100", ("imitation.energy=100",)),
    Idea("energy 24, twice the rate", ("recipe=best", "optimisation.learning_rate=3e-3")),
    Idea("one state", ("imitation.states=1",)),
    Idea("four states", ("imitation.states=4",)),
    Idea("eight states", ("imitation.states=8",)),
    Idea("batch of 64", ("optimisation.batch_size=64",)),
    Idea("twice the rate", ("optimisation.learning_rate=3e-3",)),
    Idea("half the rate", ("optimisation.learning_rate=7.5e-4",)),
    Idea("a longer average", ("optimisation.ema_gamma=3",)),
    Idea("a shorter average", ("optimisation.ema_gamma=15",)),
    Idea("no window", ("imitation.window=0",)),
    Idea("32 components", ("policy.components=32",)),
    Idea("constant rate", ("optimisation.schedule=constant",)),
)


@dataclass(frozen=True)
class Found:
    """The figures of an idea's students, one set for each seed."""

    idea: Idea
    arm: Arm
    figures: list[Measured]


def against(found: Found, base: Found) -> list[Judged]:
    """Whether the students of an idea come closer to the data than those of the published recipe, by each judge."""
    figures = {found.idea.name: found.figures, BASE: base.figures}
    return [judge(Comparison(found.idea.name, BASE, figure), figures) for figure in JUDGES]


def row(found: Found, base: Found) -> dict[str, Any]:
    return {
        "idea": found.idea.name,
        "settings": list(found.arm.settings),
        "iterations": resolved(found.arm.settings).optimisation.iterations,
        "judged": [asdict(one) for one in against(found, base)],
        "figures": [{name: one[name] for name in FIGURES} for one in found.figures],
    }


def line(found: dict[str, Any]) -> dict[str, Any]:
    """A row as the screen shows it."""
    shown = {"idea": found["idea"], "iterations": found["iterations"]}
    for one in found["judged"]:
        values = {"mean": one["better"], "published": one["worse"], "verdict": one["verdict"]}
        shown |= {f"{name} {one['figure']}": value for name, value in values.items()}
    return shown


def measure(ideas: Sequence[Idea], study: Study, seeds: Sequence[int], jobs: int) -> Iterator[dict[str, Any]]:
    """A row for each of the ``ideas`` but the first, against that one."""
    if jobs > 1:
        make_all(study, [(idea.arm, False) for idea in ideas], seeds, jobs)
    base: Found | None = None
    for idea in ideas:
        found = Found(idea, idea.arm, [study.figures(idea.arm, seed) for seed in seeds])
        print(f"{idea.name}: {[[round(one[name], 4) for name in JUDGES] for one in found.figures]}", flush=True)
        if base is None:
            base = found
        else:
            yield row(found, base)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, "names of ideas", Study.all_images)
    options = parser.parse_args(arguments)
    seeds = seeds_of(parser, options.seeds)
    names = asked_for(parser, options.only, [idea.name for idea in IDEAS])
    asked = [IDEAS[0], *(idea for name in names for idea in IDEAS[1:] if idea.name == name)]
    study = Study(options.runs, options.iterations, options.images, options.device)
    rows: list[dict[str, Any]] = []
    for found in measure(asked, study, seeds, options.jobs):
        rows.append(found)
        if options.json is not None:
            facts = {
                **machine(torch.device(options.device)),
                "images": options.images,
                "seeds": seeds,
                "evaluations": cost(),
            }
            write_json(options.json, {"benchmark": "ideas", "teacher": "digits", **facts, "rows": rows})
    print(format_table([line(found) for found in rows], COLUMNS))


if __name__ == "__main__":
    main()
