"""How close digits students come to the data and to their teacher.

    python tests/benchmarks/digits.py [--json FILE] [--iterations N] [--students gm-1,dx-4,...] [--steps 1,2,...]
                                      [--recipe NAME] [--set KEY=VALUE] [--seeds 0,1,...] [--runs DIR]

Every row is 1,797 images with the labels of the data set from the noise of seeds 0 to 1796, neither
clipped nor rounded. Distances are Frechet distances on raw pixels in [-1, 1], or on the features of the
shipped classifier, which no training sees; the squared distance is per pixel, from the same noise.
Students are trained by `piflow distill --teacher digits` in a process of its own, whose wall time is the
seconds column.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from common import machine, write_json
from safetensors.torch import load_file, save_file
from torch import Tensor

from piflow_cli.console import format_table
from piflow_cli.core.guidance import Guidance
from piflow_cli.data.labelled_images import load_images
from piflow_cli.evaluation.extractors.digits import DigitsClassifier
from piflow_cli.evaluation.extractors.moments import Moments, moments
from piflow_cli.evaluation.metrics.frechet import frechet_distance
from piflow_cli.sampling.denoise import sample_student, sample_teacher, seeded_generators, seeded_noise
from piflow_cli.students.open import open_student
from piflow_cli.system.files import replacing_file
from piflow_cli.teachers import family_of
from piflow_cli.weights.locate import locate

TEACHER_STEPS = (1, 2, 4, 8, 32, 128)
BATCH = 128
CPU = torch.device("cpu")
STUDENTS = tuple(f"{policy}-{nfe}" for policy in ("gm", "dx", "momentum") for nfe in (1, 2, 4))
COLUMNS = (
    "model",
    "seed",
    "trained_for",
    "evaluations",
    "seconds",
    "to_data",
    "by_classifier",
    "to_teacher",
    "squared_distance",
)


class Ruler:
    """Measures samples against the data and against the fine samples of the teacher in ``base``.

    ``kept``: a file of these samples, which is written where there is none.
    """

    def __init__(
        self,
        data: tuple[Tensor, Tensor],
        images: int,
        device: torch.device = CPU,
        family: str = "dit",
        base: str = "preset:digits",
        kept: Path | None = None,
    ) -> None:
        self.family = family_of(family)
        self.teacher = self.family.load(locate(base)).to(device)
        pictures, labels = data
        self.data = moments(pictures.flatten(1))
        self.classifier = DigitsClassifier(CPU)
        self.features = moments(self.classifier.features(pictures))
        self.conditioning = {"class_labels": labels[:images].to(device).long()}
        self.noise = seeded_noise(seeded_generators(range(images)), self.family.sample_shape(self.teacher)).to(device)
        self.fine = self._fine(kept)
        self.fine_moments = moments(self.fine.flatten(1))

    def _fine(self, kept: Path | None) -> Tensor:
        if kept is not None and kept.is_file():
            return load_file(kept)["fine"]
        fine = self.teacher_samples(TEACHER_STEPS[-1])
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            with replacing_file(kept) as aside:
                save_file({"fine": fine.contiguous()}, aside)
        return fine

    def teacher_samples(self, steps: int) -> Tensor:
        # In batches: the activations of all images at once leave the processor's cache.
        labels = self.conditioning["class_labels"].split(BATCH)
        return torch.cat(
            [
                sample_teacher(
                    self.family, self.teacher, noise, {"class_labels": classes}, steps, 1.0, Guidance()
                ).cpu()
                for noise, classes in zip(self.noise.split(BATCH), labels)
            ]
        )

    def teacher_row(self, steps: int) -> dict:
        samples = self.fine if steps == TEACHER_STEPS[-1] else self.teacher_samples(steps)
        return self.row("teacher, Euler", steps, samples)

    def row(
        self,
        model: str,
        evaluations: int,
        samples: Tensor,
        seconds: float | None = None,
        trained: int | None = None,
        seed: int | None = None,
    ) -> dict:
        """``trained``: the evaluations that a student was trained for; ``seed``: of its training."""
        samples = samples.cpu()
        ours: Moments = moments(samples.flatten(1))
        return {
            "model": model,
            "seed": seed,
            "trained_for": trained,
            "evaluations": evaluations,
            "seconds": seconds,
            "to_data": frechet_distance(ours, self.data),
            "by_classifier": frechet_distance(moments(self.classifier.features(samples)), self.features),
            "to_teacher": frechet_distance(ours, self.fine_moments),
            "squared_distance": (samples - self.fine).square().mean().item(),
        }


def train(name: str, folder: Path, settings: Sequence[str], seed: int) -> float | None:
    """Distil a student named like gm-1 or dx-4 with ``settings`` over the preset's; returns the seconds of wall time.

    None where the folder has a student already, which is measured as it is.
    """
    if (folder / "adapter").is_dir():
        return None
    policy, nfe = name.rsplit("-", 1)
    command = [sys.executable, "-m", "piflow_cli", "distill", "--teacher", "digits", "--policy", policy, "--nfe", nfe]
    command += ["--output", str(folder), "--quiet", "--set", f"seed={seed}", *settings]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def measure(
    students: list[str],
    settings: Sequence[str],
    runs: Path,
    images: int,
    steps: tuple[int, ...] = (),
    seeds: tuple[int, ...] = (0,),
) -> list[dict]:
    """A row for each teacher, and for each student of each of ``seeds`` as it was trained or at each of ``steps``."""
    ruler = Ruler(load_images(locate("preset:digits/images.safetensors")), images)
    rows = [ruler.teacher_row(steps) for steps in TEACHER_STEPS]
    for name, seed in itertools.product(students, seeds):
        folder = runs / f"{name}-{seed}"
        seconds = train(name, folder, settings, seed)
        student = open_student(folder / "adapter")
        facts = student.facts
        for count in steps or (facts.nfe,):
            samples = sample_student(student, ruler.noise, ruler.conditioning, steps=count)
            title = f"student, {facts.policy} {facts.components}"
            rows.append(ruler.row(title, count, samples, seconds, facts.nfe, seed))
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the rows, versions and machine here")
    parser.add_argument("--iterations", type=int, help="of every student; default: the preset's")
    parser.add_argument("--students", default=",".join(STUDENTS), help="policy-nfe names with commas between")
    parser.add_argument("--steps", default="", help="evaluations of every student; default: those it was trained for")
    parser.add_argument("--recipe", help="of every student; default: the preset's")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of every student; may come again")
    parser.add_argument("--seeds", default="0", help="of the trainings, with commas between")
    parser.add_argument("--runs", type=Path, help="keep the runs in this folder")
    parser.add_argument("--images", type=int, default=1797, help="first so many of the 1,797 conditions")
    options = parser.parse_args(arguments)
    students = [name for name in options.students.split(",") if name]
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        runs = Path(scratch) if options.runs is None else options.runs
        steps = tuple(int(count) for count in options.steps.split(",") if count)
        given = {"--iterations": options.iterations, "--recipe": options.recipe}
        settings = [part for name, value in given.items() if value is not None for part in (name, str(value))]
        settings += [part for setting in options.set for part in ("--set", setting)]
        seeds = tuple(int(seed) for seed in options.seeds.split(","))
        rows = measure(students, settings, runs, options.images, steps, seeds)
    print(format_table(rows, COLUMNS))
    if options.json is not None:
        facts = {**machine(torch.device("cpu")), "images": options.images, "settings": settings}
        write_json(options.json, {**facts, "rows": rows})


if __name__ == "__main__":
    main()
