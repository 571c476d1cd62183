"""The ideas that win on digits, on the emoji teacher: each against its published recipe at equal cost.

    python tests/benchmarks/ideas_emoji.py --runs RUNS [--only NAME,...] [--seeds 0,1,2] [--json FILE]

Everything is as in ideas.py. Distances and elastic students need pictures, and the preset trains on its prompts alone:
they get those of the shipped prompts, which the first stage of `python -m piflow_cli.embedded.emoji` fetches into RUNS.

Two judges, over two pictures of each of some shipped prompts: `to_data` is the Frechet distance of the features of
EfficientNet-Lite0, which no training sees, to the pictures of all shipped prompts. `error` is that of claims_emoji.py:
of latents, against 50 Euler steps of the teacher from the same noise. `to_teacher` is the Frechet distance to these.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from claim_courses import against_teacher
from claim_runs import Measured
from claim_table import Arm
from claims_emoji import EmojiStudy, fine_name
from emoji import EXTRACTOR, pictures_of_prompts, write_picture
from idea_table import BASE_2, BASE_4, Idea
from ideas import Judging, run
from safetensors.torch import load_file, save_file
from torch import Tensor

from piflow_cli.embedded.emoji.data import make_data
from piflow_cli.evaluation.extractors.base import open_extractor
from piflow_cli.evaluation.metrics.frechet import frechet_distance_of_samples
from piflow_cli.sampling.denoise import sample_student
from piflow_cli.system.files import replacing_file, replacing_folder

EMOJI = Judging(("to_data", "error"), ("to_teacher",))
BASE_1 = "published at 1 NFE"
NOT_COLD_2, NOT_COLD_4 = "temperature 1 at 2 NFE", "temperature 1 at 4 NFE"
DATA = "data"  # folder that the program of the teacher fetches
AT_ONCE = 32  # pictures that are decoded and looked at


def of(*settings: str, batch: int) -> tuple[str, ...]:
    """Settings with a batch of so many samples, which for trajectories of fewer segments is as much as the preset's."""
    return (*settings, f"optimisation.batch_size={batch}", f"optimisation.device_batch_size={batch}")


# The folder is in RUNS: --data says where, and has the last word.
PICTURES = ("data.prompts=null", "data.captioned=pictures")
BEST = ("imitation.energy=24", "imitation.moments=12")
# Segments of half the path must begin where some of a quarter do.
EVEN = "policy.final_step_scale=1"
ELASTIC = of(*PICTURES, EVEN, batch=32)
IDEAS = (
    Idea(BASE_1, of(batch=32), base=BASE_1, teacher="emoji"),
    Idea(BASE_2, of(batch=16), nfe=2, base=BASE_2, teacher="emoji"),
    Idea(BASE_4, nfe=4, base=BASE_4, teacher="emoji"),
    Idea(NOT_COLD_2, of(batch=16), nfe=2, temperature=1, base=BASE_2, teacher="emoji"),
    Idea(NOT_COLD_4, nfe=4, temperature=1, base=BASE_4, teacher="emoji"),
    Idea("energy 24 and moments 12", of(*PICTURES, *BEST, batch=32), base=BASE_1, teacher="emoji"),
    Idea("elastic at 1 NFE", ELASTIC, "elastic", nfe=4, steps=1, base=BASE_1, teacher="emoji"),
    Idea("elastic at 2 NFE", ELASTIC, "elastic", nfe=4, steps=2, base=BASE_2, teacher="emoji"),
    Idea("elastic at 4 NFE", ELASTIC, "elastic", nfe=4, base=BASE_4, teacher="emoji"),
    *(
        Idea(f"elastic and {base}", ELASTIC, "elastic", nfe=4, steps=steps, temperature=1, base=base, teacher="emoji")
        for steps, base in ((2, NOT_COLD_2), (4, NOT_COLD_4))
    ),
)


@dataclass(frozen=True)
class PicturedStudy(EmojiStudy):
    """Students of emoji, of prompts or of their pictures; ``images``: two of each prompt that is asked."""

    all_images: ClassVar[int] = 256

    images: int = all_images

    def prepare(self, arms: Iterable[Arm]) -> None:
        """Fetch the pictures, and write each beside its caption."""
        data = self.runs / DATA
        if not data.is_dir():
            make_data(data, None)
        if not self.pictures.is_dir():
            with replacing_folder(self.pictures) as aside:
                for number, (text, picture) in enumerate(pictures_of_prompts(data)):
                    write_picture(picture, aside / f"{number:04d}.png")
                    (aside / f"{number:04d}.txt").write_text(text, encoding="utf-8")

    @property
    def pictures(self) -> Path:
        return self.runs / "pictures"

    def teacher_options(self, arm: Arm) -> tuple[str, ...]:
        pictures = ("--data", str(self.pictures)) if set(PICTURES) <= set(arm.settings) else ()
        return (*super().teacher_options(arm), *pictures)

    @torch.no_grad()
    def measure(self, arm: Arm, folder: Path) -> Measured:
        opened = self._opened(folder)
        noise, told = opened.noise(opened.specs), opened.conditioning(opened.specs)
        fine = self._fine(opened, noise, told)
        states = sample_student(opened.student, noise, told, **arm.sampling)
        drawn = self.features(map(opened.decode, states.split(AT_ONCE)))
        by_teacher = self.kept_features(fine_name(opened, len(fine)), map(opened.decode, fine.split(AT_ONCE)))
        return {
            "to_data": frechet_distance_of_samples(drawn, self.of_data()),
            "error": against_teacher(states, fine)["error"],
            "to_teacher": frechet_distance_of_samples(drawn, by_teacher),
        }

    def of_data(self) -> Tensor:
        """The features of the pictures of all shipped prompts."""
        return self.kept_features(DATA, shipped_pictures(self.runs / DATA))

    def kept_features(self, of: str, pictures: Iterable[Tensor]) -> Tensor:
        """The features of ``pictures``, which are taken once for all students and kept in RUNS."""
        file = self.runs / f"{EXTRACTOR}-{of}.safetensors"
        if not file.is_file():
            with replacing_file(file) as aside:
                save_file({"features": self.features(pictures)}, aside)
        return load_file(file)["features"]

    def features(self, pictures: Iterable[Tensor]) -> Tensor:
        """Features (N, D) of pictures (B, 3, H, W) in [-1, 1], part by part."""
        extractor = open_extractor(EXTRACTOR, torch.device(self.device))
        return torch.cat([extractor.features(part) for part in pictures])


def shipped_pictures(data: Path) -> Iterator[Tensor]:
    """Those of all shipped prompts, AT_ONCE at a time, in [-1, 1]."""
    shown = torch.stack([picture for _, picture in pictures_of_prompts(data)])
    yield from (2 * part.float() / 255 - 1 for part in shown.split(AT_ONCE))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    run(parser, arguments, IDEAS, PicturedStudy, EMOJI)


if __name__ == "__main__":
    main()
