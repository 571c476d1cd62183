"""The paper's claim about fragile teachers, on a digits teacher whose guidance was distilled here.

    python tests/benchmarks/claims_distilled.py --runs RUNS [--seeds 0,1,2] [--json FILE]

guided_digits.py distils guidance of 4 into the shipped teacher first, and RUNS keeps it. Students start at noise alone,
as FLUX.1-dev's do, and are looked at along their training as in claims_emoji.py, whose figures these are: of samples,
two of each class and pair of seeds, against 128 Euler steps of the teacher.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from claim_courses import PAIR, course, ends_of, look_settings
from claim_runs import Measured, Study
from claim_table import Arm, Claim
from claims import run
from claims_emoji import MIXING, PREMISE
from digits import TEACHER_STEPS
from guided_digits import RECIPE, distil_guidance

from piflow_cli.presets.resolve import load
from piflow_cli.sampling.denoise import sample_student, seeded_generators, seeded_noise
from piflow_cli.sampling.teacher import own_teacher
from piflow_cli.students.open import open_student

SCALE = 4.0
GUIDED = f"teacher.guidance={SCALE:g}"
# Trajectories: as many states of each as the preset has of its samples.
FREE = {nfe: ("imitation.data_free=true", f"optimisation.batch_size={128 // nfe}") for nfe in (1, 4)}
MIXED = "imitation.mixing_iterations=100"


def student(nfe: int, *settings: str) -> Arm:
    return Arm(nfe=nfe, settings=(*FREE[nfe], *settings))


CLAIMS = (
    Claim(
        PREMISE.number,
        PREMISE.title,
        PREMISE.where,
        PREMISE.says,
        {"two halves": student(4, GUIDED), "distilled": student(4)},
        PREMISE.comparisons,
    ),
    Claim(
        MIXING.number,
        MIXING.title,
        MIXING.where,
        MIXING.says,
        {
            "mixing": student(4, MIXED),
            "no mixing": student(4),
            "1 NFE, mixing": student(1, MIXED),
            "1 NFE, no mixing": student(1),
        },
        MIXING.comparisons,
    ),
)


@dataclass(frozen=True)
class DistilledStudy(Study):
    """Students of the distilled teacher, and of the shipped one where they are guided; ``images``: of each look."""

    all_images: ClassVar[int] = 400

    images: int = all_images

    def prepare(self, arms: Iterable[Arm]) -> None:
        if not self.base.is_dir():
            distil_guidance(self.base, SCALE, self.iterations, torch.device(self.device))

    @property
    def iterations(self) -> int:
        """Of the distillation of guidance."""
        return RECIPE.iterations if self.shorter is None else self.shorter

    @property
    def base(self) -> Path:
        return self.runs / f"teacher-guided-{SCALE:g}-{self.iterations}"

    def facts(self) -> Measured:
        return super().facts() | {"guidance": SCALE, "teacher_iterations": self.iterations}

    def teacher_options(self, arm: Arm) -> tuple[str, ...]:
        own = () if GUIDED in arm.settings else ("--base", str(self.base))
        return (*super().teacher_options(arm), *own)

    def settings(self) -> tuple[str, ...]:
        iterations = load(self.teacher).optimisation.iterations if self.shorter is None else self.shorter
        return (*super().settings(), *look_settings(iterations))

    @torch.no_grad()
    def measure(self, arm: Arm, folder: Path) -> Measured:
        looked_at = open_student(folder)
        looked_at.model.to(self.device)
        teacher = own_teacher(looked_at, folder)
        noise = seeded_noise(seeded_generators(range(self.images)), teacher.family.sample_shape(teacher.model))
        noise, classes = noise.to(self.device), torch.arange(self.images, device=self.device)
        told = {"class_labels": classes // PAIR % 10}
        fine = teacher.sample(noise, told, TEACHER_STEPS[-1])
        looks, _ = course(looked_at, folder, lambda: sample_student(looked_at, noise, told, **arm.sampling), fine)
        return ends_of(looks)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    run(parser, arguments, CLAIMS, DistilledStudy)


if __name__ == "__main__":
    main()
