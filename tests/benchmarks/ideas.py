"""Ideas for better students of digits, each against the published recipe at equal cost and as many evaluations.

    python tests/benchmarks/ideas.py --runs RUNS [--only NAME,...] [--seeds 0,1,2] [--json FILE]

Cost is the number of network evaluations of the whole training, a student's backward pass counted as two, as
`metrics.jsonl` counts them: an idea whose iterations take more has fewer of them. Students are distilled by
`piflow distill --teacher digits`, under a variant of idea_variants.py where the idea is no setting, and measured by
digits.py's distances; RUNS keeps both. Intervals are those of the claims. What loses stays in the table. The file is
written after every idea; with --keep it keeps its other rows, so that a study may be measured in parts, each with seeds
of its own.

An idea that trains on what a distance measures may win by it and make worse pictures. So two distances judge: on
pixels, and on the features of the shipped classifier, which no training sees. ideas_emoji.py has the winners on another
teacher.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from claim_runs import Measured, Study, add_options, asked_for, make_all, seeds_of
from claim_table import Comparison
from claim_verdicts import Judged, judge
from common import machine
from idea_table import IDEAS, Idea, cost, resolved
from study_file import StudyFile

from piflow_cli.console import format_table


@dataclass(frozen=True)
class Judging:
    """The figures of a student: those that judge an idea, and others that the file has beside them."""

    judges: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the table on the screen."""
        judged = (f"{name} {judge}" for judge in self.judges for name in ("mean", "published", "verdict"))
        return ("idea", "evaluations", "iterations", *judged)


DIGITS = Judging(("to_data", "by_classifier"), ("to_teacher", "squared_distance"))


@dataclass(frozen=True)
class Found:
    """The figures of an idea's students, one set for each of ``seeds``."""

    idea: Idea
    seeds: Sequence[int]
    figures: list[Measured]


def against(found: Found, base: Found, judging: Judging) -> list[Judged]:
    """Whether the students of an idea have lower figures than those of the published recipe, by each judge."""
    figures = {found.idea.name: found.figures, base.idea.name: base.figures}
    return [judge(Comparison(found.idea.name, base.idea.name, figure), figures) for figure in judging.judges]


def told(idea: Idea) -> dict[str, Any]:
    return {"idea": idea.name, "settings": idea.told}


def named(found: dict[str, Any]) -> str:
    """What a row is known by: a name whose settings have changed means something else."""
    return " ".join((found["idea"], *found["settings"]))


def row(found: Found, base: Found, judging: Judging = DIGITS) -> dict[str, Any]:
    settings = resolved(found.idea.arm.settings, found.idea.teacher)
    return {
        **told(found.idea),
        "evaluations": found.idea.evaluations,
        "besides": found.idea.besides,
        "iterations": settings.optimisation.iterations,
        "seeds": list(found.seeds),
        "judged": [asdict(one) for one in against(found, base, judging)],
        "figures": [{name: one[name] for name in (*judging.judges, *judging.others)} for one in found.figures],
    }


def line(found: dict[str, Any]) -> dict[str, Any]:
    """A row as the screen shows it."""
    shown = {name: found[name] for name in ("idea", "evaluations", "iterations")}
    for one in found["judged"]:
        values = {"mean": one["better"], "published": one["worse"], "verdict": one["verdict"]}
        shown |= {f"{name} {one['figure']}": value for name, value in values.items()}
    return shown


def measure(
    asked: Sequence[Idea], table: Sequence[Idea], judging: Judging, study: Study, seeds: Sequence[int], jobs: int
) -> Iterator[dict[str, Any]]:
    """A row for each of the ideas ``asked`` but the published recipes; what each is held against is measured too."""
    by_name = {idea.name: idea for idea in table}
    needed = {idea.name: idea for one in asked for idea in (by_name[one.base], one)}
    study.prepare(idea.arm for idea in needed.values())
    if jobs > 1:
        make_all(study, [(idea.arm, False) for idea in needed.values()], seeds, jobs)
    found: dict[str, Found] = {}
    for one in asked:
        for idea in (by_name[one.base], one):
            if idea.name not in found:
                found[idea.name] = Found(idea, seeds, [study.figures(idea.arm, seed) for seed in seeds])
                shown = [[round(own[figure], 4) for figure in judging.judges] for own in found[idea.name].figures]
                print(f"{idea.name}: {shown}", flush=True)
        if one.base != one.name:
            yield row(found[one.name], found[one.base], judging)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    run(parser, arguments, IDEAS, Study, DIGITS)


def run(
    parser: argparse.ArgumentParser,
    arguments: list[str] | None,
    table: Sequence[Idea],
    study_of: type[Study],
    judging: Judging,
) -> None:
    """Measure ideas of ``table`` on students of one teacher, as the command line tells; ``parser`` gets its options."""
    add_options(parser, "names of ideas", study_of.all_images)
    options = parser.parse_args(arguments)
    seeds = seeds_of(parser, options.seeds)
    names = asked_for(parser, options.only, [idea.name for idea in table])
    asked = [idea for name in names for idea in table if idea.name == name]
    study = study_of(options.runs, options.iterations, options.images, options.device)
    facts = {**machine(torch.device(options.device)), **study.facts(), "evaluations": cost(study.teacher)}
    head = {"benchmark": "ideas", "teacher": study.teacher, **facts}
    file = StudyFile(options.json, head, "rows", named, [named(told(idea)) for idea in table])
    if options.keep:
        file = file.keeping(parser, [named(told(idea)) for idea in asked])
    rows: list[dict[str, Any]] = []
    for found in measure(asked, table, judging, study, seeds, options.jobs):
        rows.append(found)
        file.write(rows)
    print(format_table([line(found) for found in rows], judging.columns))


if __name__ == "__main__":
    main()
