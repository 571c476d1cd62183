"""The paper's claims, measured on the digits teacher.

    python tests/benchmarks/claims.py --runs RUNS [--only 1,3] [--seeds 0,1,2] [--json FILE]

Those on the emoji teacher are claims_emoji.py's, those on teachers that are no flow models claims_diffusion.py's.

claim_table.py says which claim compares which students, and where the paper makes it. Each student is distilled by
`piflow distill --teacher digits`, once for each seed, and looked at by `piflow inspect-policy`; distances are those of
digits.py. RUNS keeps students and figures, and a program that was stopped goes on. The file is written after every
claim; with --keep it keeps its other claims, so that a study may be measured in parts, each with seeds of its own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from claim_runs import Measured, Study, add_options, asked_for, make_all, seeds_of
from claim_table import CLAIMS, Claim
from claim_verdicts import judge, verdict
from common import machine
from study_file import StudyFile

from piflow_cli.console import format_table

COLUMNS = ("claim", "expected", "figure", "better", "worse", "difference", "margin", "verdict")


def measured(claim: Claim, study: Study, seeds: list[int]) -> dict[str, list[Measured]]:
    """The figures of every student of the claim, one set for each seed."""
    found = {}
    for name, arm in claim.arms.items():
        found[name] = [study.figures(arm, seed, claim.inspects) for seed in seeds]
        print(f"claim {claim.number}: {name} on {len(seeds)} seeds", flush=True)
    return found


def words(claim: Claim) -> dict[str, Any]:
    return {"number": claim.number, "title": claim.title, "where": claim.where, "says": claim.says}


def named(found: dict[str, Any]) -> str:
    """What a claim is known by in the file."""
    return f"claim {found['number']}, {found['title']}: {found['says']}"


def names_of(claim: Claim) -> tuple[str, str]:
    """What --only may call it: claims of one number have titles of their own."""
    return str(claim.number), claim.title


def record(claim: Claim, figures: dict[str, list[Measured]], seeds: list[int]) -> dict[str, Any]:
    """What the file has of one claim: its words, the figures of every student and seed, and what follows."""
    comparisons = [judge(one, figures) for one in claim.comparisons]
    return {
        **words(claim),
        "seeds": seeds,
        "verdict": verdict(comparisons),
        "comparisons": [asdict(one) for one in comparisons],
        "arms": {
            name: {"settings": list(arm.options), "nfe": arm.nfe, "sampling": arm.sampling, "figures": figures[name]}
            for name, arm in claim.arms.items()
        },
    }


def rows_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"claim": found["number"], **one} for one in found["comparisons"]]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    run(parser, arguments, CLAIMS, Study)


def run(
    parser: argparse.ArgumentParser, arguments: list[str] | None, claims: Sequence[Claim], study_of: type[Study]
) -> None:
    """Measure ``claims`` on students of one teacher, as the command line tells; ``parser`` gets its options here."""
    add_options(parser, "numbers or titles of claims", study_of.all_images)
    options = parser.parse_args(arguments)
    seeds = seeds_of(parser, options.seeds)
    names = asked_for(parser, options.only, dict.fromkeys(name for claim in claims for name in names_of(claim)))
    study = study_of(options.runs, options.iterations, options.images, options.device)
    asked = list({names_of(claim): claim for name in names for claim in claims if name in names_of(claim)}.values())
    arms = [(arm, claim.inspects) for claim in asked for arm in claim.arms.values()]
    study.prepare(arm for arm, _ in arms)
    facts = {**machine(torch.device(options.device)), **study.facts()}
    head = {"benchmark": "claims", "teacher": study.teacher, **facts}
    file = StudyFile(options.json, head, "claims", named, [named(words(claim)) for claim in claims])
    if options.keep:
        file = file.keeping(parser, [named(words(claim)) for claim in asked])
    if options.jobs > 1:
        make_all(study, arms, seeds, options.jobs)
    found: list[dict[str, Any]] = []
    for claim in asked:
        found.append(record(claim, measured(claim, study, seeds), seeds))
        print(format_table(rows_of(found[-1]), COLUMNS), flush=True)
        file.write(found)
    print(json.dumps({one["title"]: one["verdict"] for one in found}, indent=1))


if __name__ == "__main__":
    main()
