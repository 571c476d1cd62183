"""Whether the recipe of flow teachers fits others: digits teachers that predict noise, v, or what EDM does.

    python tests/benchmarks/claims_diffusion.py --runs RUNS [--seeds 0,1,2] [--json FILE]

The teachers are trained first, by `python -m piflow_cli.embedded.digits_teacher`, and kept in RUNS; then everything is
as in claims.py. Distances to the teacher are those to the fine samples of each student's own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from claim_runs import Measured, Study
from claim_table import Arm, Claim, against
from claims import run
from digits import TEACHER_STEPS, Ruler

TEACHER_ITERATIONS = 4_000  # half of those of the shipped teacher
PREDICTS = {"dit-epsilon": "epsilon-linear", "dit-v": "v-linear", "dit-edm": "edm"}
SETTINGS = {"": (), ", no window": ("imitation.window=0",), ", no dropout": ("imitation.dropout=0",)}
FAMILY = "teacher.family="

OTHER_TEACHERS = Claim(
    10,
    "Teachers that are no flow models",
    "pi-Flow, section 3; all its teachers are flow models",
    "Window and dropout of the digits preset are right for teachers that predict noise, v, or as EDM does.",
    {f"{family}{told}": Arm(settings=(FAMILY + family, *own)) for family in PREDICTS for told, own in SETTINGS.items()},
    tuple(
        one
        for family in PREDICTS
        for one in against(family, (f"{family}, no window", f"{family}, no dropout"), "to_teacher", "to_data")
    ),
)
OF_NOISE = (FAMILY + "dit-epsilon",)
ERRORS = Claim(
    10,
    "Errors of predicted noise near pure noise",
    "ours; pi-Flow has no such teachers",
    "A student of a teacher that predicts noise ends nearer where an error counts twice at most than 4 or 16 times.",
    {
        "dit-epsilon": Arm(settings=OF_NOISE),
        "up to 16 times": Arm(settings=OF_NOISE, variant="gain-16"),
        "up to 4 times": Arm(settings=OF_NOISE, variant="gain-4"),
        "dit-epsilon at 4 NFE": Arm(nfe=4, settings=OF_NOISE),
        "up to 16 times at 4 NFE": Arm(nfe=4, settings=OF_NOISE, variant="gain-16"),
        "up to 4 times at 4 NFE": Arm(nfe=4, settings=OF_NOISE, variant="gain-4"),
    },
    (
        *against("dit-epsilon", ("up to 4 times", "up to 16 times"), "to_teacher", "to_data"),
        *against(
            "dit-epsilon at 4 NFE", ("up to 4 times at 4 NFE", "up to 16 times at 4 NFE"), "to_teacher", "to_data"
        ),
    ),
)
CLAIMS = (OTHER_TEACHERS, ERRORS)


@dataclass(frozen=True)
class DiffusionStudy(Study):
    """Students of digits teachers that are no flow models; with ``shorter``, so are the trainings of these."""

    def prepare(self, arms: Iterable[Arm]) -> None:
        for family in dict.fromkeys(family_of_arm(arm) for arm in arms):
            if not self.base(family).is_dir():
                self._train(family)

    def facts(self) -> Measured:
        """How far the fine samples of each teacher are from the data, too: no student is told to be nearer."""
        return {
            **super().facts(),
            "teachers": {family: self._own(family) for family in PREDICTS if self.base(family).is_dir()},
        }

    def _own(self, family: str) -> Measured:
        ruler = self.ruler_of(family, str(self.base(family)))
        row = ruler.row("", TEACHER_STEPS[-1], ruler.fine)
        return {name: row[name] for name in ("to_data", "by_classifier")}

    def teacher_options(self, arm: Arm) -> tuple[str, ...]:
        return (*super().teacher_options(arm), "--base", str(self.base(family_of_arm(arm))))

    def ruler(self, arm: Arm) -> Ruler:
        family = family_of_arm(arm)
        return self.ruler_of(family, str(self.base(family)))

    def base(self, family: str) -> Path:
        iterations = TEACHER_ITERATIONS if self.shorter is None else self.shorter
        return self.runs / f"teacher-{family}-{iterations}"

    def _train(self, family: str) -> None:
        base = self.base(family)
        # A teacher that was stopped is no teacher: it has its name when it is whole.
        aside = base.with_name(f"{base.name}.part")
        iterations = base.name.rpartition("-")[2]
        told = (
            "--output",
            str(aside),
            "--predicts",
            PREDICTS[family],
            "--iterations",
            iterations,
        )
        aside.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "piflow_cli.embedded.digits_teacher", *told, "--device", self.device]
        subprocess.run(command, check=True)
        aside.rename(base)


def family_of_arm(arm: Arm) -> str:
    return next(setting.removeprefix(FAMILY) for setting in arm.settings if setting.startswith(FAMILY))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    run(parser, arguments, CLAIMS, DiffusionStudy)


if __name__ == "__main__":
    main()
