"""A teacher of videos distilled to two evaluations, beside distillation frame by frame and the teacher's own steps.

    python tests/benchmarks/claims_video.py --runs RUNS [--seeds 0,1,2] [--json FILE]

The teacher, a small Wan of moving digits, is trained first by `python -m piflow_cli.embedded.moving_teacher`, and kept
in RUNS; then everything is as in claims.py. "frame by frame" is the variant frames-apart of idea_variants.py: the same
teacher of videos, states and targets, but the student's network sees each frame as a picture of its own, and knows
nothing of the others. A picture is a video here, whose latents are its pixels: a frame has 16 x 16. Figures are
against the teacher's fine solution of the same noise, 50 Euler steps:

temporal_error, frame_error: those of `piflow eval --metrics temporal`. frechet: the distance of its fid, on pixels over
frames. motion_off: the share of frames from which to the next the digit does not move as the caption says.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from claim_runs import Measured, Study
from claim_table import Arm, Claim, Comparison, against
from claims import run
from safetensors.torch import load_file, save_file
from torch import Tensor

from piflow_cli.core.guidance import Guidance
from piflow_cli.embedded.moving_digits import FRAMES, SIDE, captions, velocities, velocities_of_captions
from piflow_cli.embedded.moving_teacher import FACTS, PROMPTS, MovingRecipe, encoded
from piflow_cli.evaluation.extractors.pixels import Pixels
from piflow_cli.evaluation.frames import OverFrames
from piflow_cli.evaluation.metrics.frechet import frechet_distance_of_samples
from piflow_cli.evaluation.metrics.temporal import temporal
from piflow_cli.sampling.denoise import sample_student, sample_teacher, seeded_generators, seeded_noise
from piflow_cli.students.open import open_student
from piflow_cli.system.files import replacing_file
from piflow_cli.teachers.base import Conditioning
from piflow_cli.teachers.wan import WanFamily

PRESET = Path(__file__).parent / "moving_digits.yaml"
EULER = "euler"  # in the place of a policy: the teacher itself, in so many steps
FINE, AT_ONCE = 50, 64
APART = "frames-apart"
STUDENTS = {
    name: {f"{policy}{told}": Arm(policy, 2, variant=variant) for policy in ("gm", "dx")}
    for name, told, variant in (("videos", "", None), ("frames", ", frame by frame", APART))
}
STEPS = {f"teacher, {steps} steps": Arm(EULER, steps) for steps in (2, 4)}
FIGURES = ("temporal_error", "frame_error", "frechet")

VIDEOS = Claim(
    11,
    "A teacher of videos at two evaluations",
    "pi-Flow's teachers make pictures; this is ours",
    "A student that sees whole videos moves more nearly as its teacher does than one that sees frame by frame, and than"
    " its teacher in as many steps, or in twice as many.",
    {**STUDENTS["videos"], **STUDENTS["frames"], **STEPS, f"teacher, {FINE} steps": Arm(EULER, FINE)},
    tuple(
        one
        for policy in ("gm", "dx")
        for one in (
            *against(policy, (f"{policy}, frame by frame", *STEPS), *FIGURES),
            Comparison(policy, f"{policy}, frame by frame", "motion_off"),
        )
    ),
)
CLAIMS = (VIDEOS,)


@dataclass(frozen=True)
class VideoStudy(Study):
    """Students of moving digits; ``images``: videos, captions in turn. ``shorter``: of the teacher's training too."""

    teacher: ClassVar[str] = "moving-digits"
    all_images: ClassVar[int] = 640

    images: int = all_images

    @property
    def base(self) -> Path:
        iterations = MovingRecipe().iterations if self.shorter is None else self.shorter
        return self.runs / f"teacher-{iterations}"

    def prepare(self, arms: Iterable[Arm]) -> None:
        if self.base.is_dir():
            return
        # A teacher that was stopped is no teacher: it has its name when it is whole, and goes on until then.
        aside = self.base.with_name(f"{self.base.name}.part")
        iterations = self.base.name.rpartition("-")[2]
        told = ("--output", str(aside), "--iterations", iterations, "--device", self.device)
        subprocess.run([sys.executable, "-m", "piflow_cli.embedded.moving_teacher", *told], check=True)
        aside.rename(self.base)

    def facts(self) -> dict[str, Any]:
        """With how the teacher was trained."""
        told = json.loads((self.base / FACTS).read_text())
        kept = ("recipe", "iterations_done", "seconds", "final_loss", "sittings")
        return super().facts() | {"training": {name: told[name] for name in kept}}

    def teacher_options(self, arm: Arm) -> tuple[str, ...]:
        cache = ("--cache", str(self.runs / "cache"))
        return ("--teacher", str(PRESET), "--base", str(self.base), "--prompts", str(self.base / PROMPTS), *cache)

    def _distil(self, arm: Arm, seed: int, folder: Path) -> None:
        if arm.policy != EULER:
            super()._distil(arm, seed, folder)

    @torch.no_grad()
    def measure(self, arm: Arm, folder: Path) -> Measured:
        if arm.policy == EULER:
            states = self.fine() if arm.nfe == FINE else self.euler(arm.nfe)
        else:
            student = open_student(folder / "adapter")
            student.model.to(self.device)
            states = self.sampled(lambda noise, told: sample_student(student, noise, told, **arm.sampling))
        return against_fine(states, self.fine(), self.asked.velocities)

    @property
    def asked(self) -> Asked:
        return _asked(self.base, self.images)

    def sampled(self, sample: Callable[[Tensor, Conditioning], Tensor]) -> Tensor:
        """All videos, from their noise and what the network is told of them, a few at a time."""
        parts = zip(self.asked.noise.split(AT_ONCE), self.asked.told.split(AT_ONCE), strict=True)
        device = torch.device(self.device)
        return torch.cat([sample(noise.to(device), {"prompt_embeds": told.to(device)}).cpu() for noise, told in parts])

    def euler(self, steps: int) -> Tensor:
        """The teacher's videos, by so many Euler steps."""
        family = WanFamily()
        model: Any = family.load(self.base).to(self.device)
        return self.sampled(lambda noise, told: sample_teacher(family, model, noise, told, steps, 1.0, Guidance()))

    def fine(self) -> Tensor:
        """The teacher's fine solution, drawn once and kept beside it."""
        file = self.base / f"fine-{self.images}.safetensors"
        if not file.is_file():
            states = self.euler(FINE)
            with replacing_file(file) as aside:
                save_file({"fine": states.contiguous()}, aside)
        return load_file(file)["fine"]


class Asked(NamedTuple):
    """Of each video its noise (N, 1, F, H, W), what the network is told (N, L, D), and how it is to move (N, 2)."""

    noise: Tensor
    told: Tensor
    velocities: Tensor


@functools.cache
def _asked(base: Path, count: int) -> Asked:
    places = torch.arange(count) % len(captions())
    noise = seeded_noise(seeded_generators(range(count)), (1, FRAMES, SIDE, SIDE))
    return Asked(noise, encoded(base)[places], velocities_of_captions()[places])


def against_fine(states: Tensor, fine: Tensor, wanted: Tensor) -> Measured:
    """The figures of videos (N, 1, F, H, W), which were to move by ``wanted`` (N, 2), against the fine ones."""
    found = temporal([(states, fine)], lambda shown: shown)
    features = OverFrames(Pixels())
    off = (velocities(states) != wanted[:, None]).any(dim=-1)
    return {
        "temporal_error": found.change,
        "frame_error": found.frame,
        "frechet": frechet_distance_of_samples(features.features(states), features.features(fine)),
        "motion_off": off.double().mean().item(),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    run(parser, arguments, CLAIMS, VideoStudy)


if __name__ == "__main__":
    main()
