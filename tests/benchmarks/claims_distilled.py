"""The paper's claims about fragile teachers, on a digits teacher whose guidance was distilled here.

    python tests/benchmarks/claims_distilled.py --runs RUNS [--seeds 0,1,2] [--json FILE]

guided_digits.py distils guidance of 4 into the shipped teacher first, and RUNS keeps it. Students start at noise alone,
as FLUX.1-dev's do, and are looked at along their training as in claims_emoji.py, whose figures these are: of samples,
two of each class and pair of seeds, against 128 Euler steps of the teacher.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from claim_courses import PAIR, against_teacher, course, ends_of, look_settings
from claim_runs import Measured, Study
from claim_table import Arm
from claims import run
from claims_emoji import FRAGILITY, MIXING, MIXING_AT_ONE, PREMISE
from digits import TEACHER_STEPS
from guided_digits import RECIPE, distil_guidance
from torch import Tensor

from piflow_cli.core.guidance import Guidance
from piflow_cli.sampling.denoise import sample_student, sample_teacher, seeded_generators, seeded_noise
from piflow_cli.sampling.teacher import own_teacher
from piflow_cli.students.open import open_student
from piflow_cli.teachers import family_of
from piflow_cli.teachers.base import Conditioning, Network
from piflow_cli.weights.locate import locate

SCALE = 4.0
GUIDED = f"teacher.guidance={SCALE:g}"
# Trajectories: as many states of each as the preset has of its samples.
FREE = {nfe: ("imitation.data_free=true", f"optimisation.batch_size={128 // nfe}") for nfe in (1, 4)}
MIXED = "imitation.mixing_iterations=100"


def student(nfe: int, *settings: str) -> Arm:
    return Arm(nfe=nfe, settings=(*FREE[nfe], *settings))


TEACHERS = {"two halves": student(4, GUIDED), "distilled": student(4)}
CLAIMS = (
    replace(PREMISE, arms=TEACHERS),
    replace(MIXING, arms={"mixing": student(4, MIXED), "no mixing": student(4)}),
    replace(MIXING_AT_ONE, arms={"mixing": student(1, MIXED), "no mixing": student(1)}),
    replace(FRAGILITY, arms=TEACHERS),
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
        """With how far samples of the distilled teacher are from the guided one's, beside those without guidance."""
        told = {
            "teacher": f"{self.teacher}, guidance distilled",
            "guidance": SCALE,
            "teacher_iterations": self.iterations,
        }
        return super().facts() | told | {"teacher_errors": self._teacher_errors()}

    @torch.no_grad()
    def _teacher_errors(self) -> dict[str, float]:
        family = family_of("dit")
        shipped, own = (family.load(base).to(self.device) for base in (locate("preset:digits"), self.base))
        noise, told = self.asked(family.sample_shape(shipped))

        def fine(model: Network, guidance: Guidance) -> Tensor:
            return sample_teacher(family, model, noise, told, TEACHER_STEPS[-1], 1.0, guidance)

        guided, drawn = fine(shipped, Guidance(SCALE)), {"distilled": fine(own, Guidance())}
        drawn["not guided"] = fine(shipped, Guidance())
        return {name: against_teacher(states, guided)["error"] for name, states in drawn.items()}

    def asked(self, shape: Sequence[int]) -> tuple[Tensor, Conditioning]:
        """The noise of a look's samples, of ``shape`` (C, *S), and their classes, PAIR of one beside each other."""
        noise = seeded_noise(seeded_generators(range(self.images)), shape).to(self.device)
        return noise, {"class_labels": torch.arange(self.images, device=self.device) // PAIR % 10}

    def teacher_options(self, arm: Arm) -> tuple[str, ...]:
        own = () if GUIDED in arm.settings else ("--base", str(self.base))
        return (*super().teacher_options(arm), *own)

    def settings(self) -> tuple[str, ...]:
        return (*super().settings(), *look_settings(self.teacher, self.shorter))

    @torch.no_grad()
    def measure(self, arm: Arm, folder: Path) -> Measured:
        looked_at = open_student(folder)
        looked_at.model.to(self.device)
        teacher = own_teacher(looked_at, folder)
        noise, told = self.asked(teacher.family.sample_shape(teacher.model))
        fine = teacher.sample(noise, told, TEACHER_STEPS[-1])
        looks, _ = course(looked_at, folder, lambda: sample_student(looked_at, noise, told, **arm.sampling), fine)
        return ends_of(looks)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    run(parser, arguments, CLAIMS, DistilledStudy)


if __name__ == "__main__":
    main()
