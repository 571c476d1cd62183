"""The paper's claims about fragile teachers, measured on the emoji teacher, whose guidance was distilled.

    python tests/benchmarks/claims_emoji.py --runs RUNS [--only 8] [--seeds 0,1,2] [--json FILE]

Students are distilled by `piflow distill --teacher emoji` and looked at by `piflow inspect-policy`; RUNS keeps them, as
claims.py says. Every student is looked at on its way too: after each eighth of its training its average draws two
pictures of each of some shipped prompts, from noise that is always the same. Figures are of latents, against 50 Euler
steps of the teacher from that noise:

error: mean square of the difference, over the mean square of the teacher's. norm_off: how far the root mean square is
from the teacher's, as the absolute of its logarithm. sameness: 1 less the distance of the two pictures of a prompt over
that of the teacher's. Those that begin with worst_ are the largest of the second half of the training, the others are
of its end. course has them all, and course.png in the folder of a run the pictures.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from claim_courses import PAIR, course, ends_of, look_settings
from claim_runs import Measured, Study, inspected
from claim_table import Arm, Claim, against
from claims import run
from safetensors.torch import load_file, save_file
from torch import Tensor

from piflow_cli.console import Console
from piflow_cli.reports.grids import comparison_grid
from piflow_cli.reports.images import save_png, to_images
from piflow_cli.sampling.denoise import sample_student
from piflow_cli.sampling.opened import OpenedModel, open_model
from piflow_cli.sampling.request import SampleRequest
from piflow_cli.sampling.teacher import own_teacher
from piflow_cli.students.open import find_student
from piflow_cli.weights.locate import locate

TEACHER_STEPS = 50
SEEDS = tuple(range(PAIR))  # of the pictures of each prompt
SHOWN, INSPECTED = 8, 4  # pictures of a row; prompts that piflow inspect-policy draws

NO_MIXING = "imitation.mixing_iterations=0"
BY_TWO_HALVES = ("teacher.family=flux-cfg", "teacher.base=preset:emoji-cfg", "teacher.guidance_mode=plain")
TEACHERS = {
    "two halves": Arm(nfe=4, settings=(*BY_TWO_HALVES, NO_MIXING)),
    "distilled": Arm(nfe=4, settings=(NO_MIXING,)),
}
PREMISE = Claim(
    8,
    "A guidance-distilled teacher is fragile off its own path",
    "pi-Flow, on scheduled trajectory mixing for FLUX",
    "It answers worse where noise was added to its path than the same teacher guided by two evaluations.",
    TEACHERS,
    against("two halves", ("distilled",), "teacher_error"),
)
MIXING = Claim(
    8,
    "Mixing prevents collapse",
    "pi-Flow, on scheduled trajectory mixing for FLUX",
    "Without teacher steps between a student's at first, students of a guidance-distilled teacher collapse.",
    {"mixing": Arm(nfe=4), "no mixing": Arm(nfe=4, settings=(NO_MIXING,))},
    against("mixing", ("no mixing",), "error", "worst_norm_off", "worst_sameness"),
)
MIXING_AT_ONE = replace(
    MIXING,
    title="Mixing prevents collapse at one evaluation",
    says="At one evaluation, where teacher steps take the place of the student's own, they collapse without these.",
    arms={"mixing": Arm(), "no mixing": Arm(settings=(NO_MIXING,))},
)
# Which of two teachers is the fragile one was measured before a student had learned anything, in a run of two
# iterations; what is asked is the order of their students.
FRAGILITY = Claim(
    9,
    "What a teacher does off its own path limits its student",
    "pi-Flow, on scheduled trajectory mixing; how far it reaches is left open there",
    "The teacher that answers worse where noise was added to its path has the student that ends further from it.",
    TEACHERS,
    against("distilled", ("two halves",), "teacher_error", "error"),
)
CLAIMS = (PREMISE, MIXING, MIXING_AT_ONE, FRAGILITY)


@dataclass(frozen=True)
class EmojiStudy(Study):
    """Students of emoji; ``images``: pictures of each look, two for a prompt."""

    teacher: ClassVar[str] = "emoji"
    all_images: ClassVar[int] = 64

    images: int = all_images

    def settings(self) -> tuple[str, ...]:
        return (*super().settings(), *look_settings(self.teacher, self.shorter))

    @torch.no_grad()
    def measure(self, arm: Arm, folder: Path) -> Measured:
        opened = self._opened(folder)
        noise, told = opened.noise(opened.specs), opened.conditioning(opened.specs)
        fine = self._fine(opened, noise, told)
        looks, drawn = course(
            opened.student, folder, lambda: sample_student(opened.student, noise, told, **arm.sampling), fine
        )
        rows = {"teacher": fine} | {f"{look['iteration']}": states for look, states in zip(looks, drawn, strict=True)}
        _save_pictures(opened, rows, folder / "course.png")
        told_more = inspected(folder, self.device, "--prompts", str(self._prompts(INSPECTED)), "--seeds", "0")
        return ends_of(looks) | told_more

    def inspected(self, folder: Path) -> Measured:
        return {}  # it is among the figures

    def _opened(self, folder: Path) -> OpenedModel:
        asked = SampleRequest(prompts_from=str(self._prompts(self.images // len(SEEDS))), seeds=SEEDS)
        return open_model(find_student(folder), asked, device=torch.device(self.device), console=Console(quiet=True))

    def _prompts(self, count: int) -> Path:
        """A file of ``count`` of the shipped prompts, evenly."""
        file = self.runs / f"prompts-{count}.txt"
        texts = locate("preset:emoji/prompts.txt").read_text(encoding="utf-8").splitlines()
        _write_aside(
            file, lambda aside: aside.write_text("".join(f"{texts[place]}\n" for place in _even(texts, count)))
        )
        return file

    def _fine(self, opened: OpenedModel, noise: Tensor, told: dict[str, Tensor]) -> Tensor:
        """Latents of the teacher's TEACHER_STEPS steps, drawn once for each teacher."""
        file = self.runs / f"{fine_name(opened, len(noise))}.safetensors"
        if not file.exists():
            fine = own_teacher(opened.student, opened.found.folder).sample(noise, told, TEACHER_STEPS)
            _write_aside(file, lambda aside: save_file({"fine": fine.cpu().contiguous()}, aside))
        return load_file(file)["fine"].to(noise.device)


def fine_name(opened: OpenedModel, count: int) -> str:
    """What ``count`` fine samples of the student's teacher are called in RUNS."""
    facts = opened.student.facts
    return f"teacher-{facts.family}-{facts.guidance:g}-{facts.shift:g}-{count}"


def _save_pictures(opened: OpenedModel, rows: dict[str, Tensor], file: Path) -> None:
    """One picture of each of the first prompts, a row for each look, the teacher's first."""
    shown = slice(0, SHOWN * len(SEEDS), len(SEEDS))
    titles = [spec.title for spec in opened.specs[shown]]
    save_png(comparison_grid({name: to_images(opened.decode(of[shown])) for name, of in rows.items()}, titles), file)


def _even(texts: list[str], count: int) -> list[int]:
    return [place * len(texts) // count for place in range(count)]


def _write_aside(file: Path, write: Callable[[Path], object]) -> None:
    """Students that are measured beside each other make the same file: it is whole, or not there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f"{file.name}.{os.getpid()}")
    write(aside)
    os.replace(aside, file)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    run(parser, arguments, CLAIMS, EmojiStudy)


if __name__ == "__main__":
    main()
