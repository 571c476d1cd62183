"""Students of the claims: distilled by piflow, measured, and kept."""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import io
import json
import math
import multiprocessing
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import idea_variants
import torch
from claim_table import Arm
from common import write_json
from digits import Ruler
from study_file import add_keep

from piflow_cli.app import main
from piflow_cli.data.labelled_images import load_images
from piflow_cli.inspection.robustness import TYPICAL, size_name
from piflow_cli.sampling.denoise import sample_student
from piflow_cli.students.open import open_student
from piflow_cli.students.run_status import status_of
from piflow_cli.weights.locate import locate

Measured = dict[str, Any]
FROM, TO = 0.25, 0.75  # parts of the first segment between which the growth of the error is taken


@dataclass(frozen=True)
class Study:
    """Where students of digits are kept and how they are made and measured.

    shorter: iterations of every student in place of its own. images: so many of the labels. device: of trainings
    and samplings.
    """

    teacher: ClassVar[str] = "digits"
    all_images: ClassVar[int] = 1797

    runs: Path
    shorter: int | None = None
    images: int = all_images
    device: str = "cpu"

    def prepare(self, arms: Iterable[Arm]) -> None:
        """Make what all students of ``arms`` need; here nothing."""

    def facts(self) -> dict[str, Any]:
        """What the file says of the study besides its device and seeds."""
        return {"images": self.images}

    def teacher_options(self, arm: Arm) -> tuple[str, ...]:
        """What `piflow distill` is told of the teacher, besides what ``arm`` says."""
        return ("--teacher", self.teacher)

    def ruler(self, arm: Arm) -> Ruler:
        """What students of ``arm`` are measured by."""
        return self.ruler_of("dit", "preset:digits")

    def ruler_of(self, family: str, base: str) -> Ruler:
        """The ruler by the teacher in ``base``, whose fine samples RUNS keeps."""
        kept = self.runs / f"fine-{_name((family, base, self.images))}.safetensors"
        return _ruler(self.images, self.device, family, base, kept)

    def folder(self, arm: Arm, seed: int) -> Path:
        return self.runs / _name((*arm.told, seed, self.shorter))

    def measured(self, arm: Arm, seed: int) -> Path:
        return self.folder(arm, seed) / f"measured-{_name((arm.sampling, self.images))}.json"

    def figures(self, arm: Arm, seed: int, inspects: bool = False) -> Measured:
        """The figures of one student, taken once and kept beside its run; what an inspection tells where asked for."""
        file, folder = self.measured(arm, seed), self.folder(arm, seed)
        if not file.exists():
            if arm.variant is None:
                self.make(arm, seed)
            else:
                self._make_apart(arm, seed)
        return json.loads(file.read_text()) | (self.inspected(folder) if inspects else {})

    def inspected(self, folder: Path) -> Measured:
        """What `piflow inspect-policy` tells of the student in ``folder``."""
        return inspected(folder, self.device)

    def settings(self) -> tuple[str, ...]:
        """What all students are distilled with, as --set takes it."""
        shorter = () if self.shorter is None else (f"optimisation.iterations={self.shorter}",)
        return ("output.preview_every=0", *shorter)

    def make(self, arm: Arm, seed: int) -> None:
        """Distil and measure a student in this process, which is under the variant of ``arm``."""
        folder = self.folder(arm, seed)
        self._distil(arm, seed, folder)
        write_json(self.measured(arm, seed), self.measure(arm, folder))

    def _make_apart(self, arm: Arm, seed: int) -> None:
        # What a variant replaces is replaced as long as a process lasts.
        told = (arm.variant, torch.get_num_threads())
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin_under, told) as pool:
            pool.submit(self.make, arm, seed).result()

    def _distil(self, arm: Arm, seed: int, folder: Path) -> None:
        given = [part for setting in (f"seed={seed}", *self.settings()) for part in ("--set", setting)]
        where = ["--output", str(folder), "--device", self.device]
        if arm.start is not None:
            begin = self.folder(arm.start, seed)
            self._distil(arm.start, seed, begin)
            where += ["--fork", str(begin)]
        asked = ("distill", *self.teacher_options(arm), *where, *arm.options, *given, "--quiet")
        piflow(*asked)
        # A run that SIGTERM has stopped is no failure to piflow: a study that is killed has no student in it yet.
        if (status := status_of(folder, whole=False)).state != "finished":
            raise RuntimeError(f"{folder} is {status.state} at iteration {status.iteration} of {status.iterations}")

    @torch.no_grad()
    def measure(self, arm: Arm, folder: Path) -> Measured:
        """Distances to data and to fine samples of the teacher, and squared ones from the same noise: as digits.py."""
        ruler = self.ruler(arm)
        student = open_student(folder / "adapter")
        student.model.to(self.device)
        row = ruler.row("", arm.nfe, sample_student(student, ruler.noise, ruler.conditioning, **arm.sampling))
        return {name: row[name] for name in ("to_data", "by_classifier", "to_teacher", "squared_distance")}


def _begin_under(variant: str, threads: int) -> None:
    torch.set_num_threads(threads)
    idea_variants.apply(variant)


def make_all(study: Study, asked: Iterable[tuple[Arm, bool]], seeds: Sequence[int], jobs: int) -> None:
    """Take the figures of all students, ``jobs`` at a time, each on a thread of its own; says what has failed.

    ``asked``: of each arm whether its students are inspected.
    """
    by_run: dict[Path, list[tuple[Arm, int, bool]]] = defaultdict(list)
    for arm, inspects in asked:
        for seed in seeds:
            by_run[study.folder(arm, seed)].append((arm, seed, inspects))
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        runs = {pool.submit(_figures_of_run, study, run): run for run in by_run.values()}
        for number, ended in enumerate(as_completed(runs), 1):
            fault = ended.exception()
            outcome = "measured" if fault is None else f"failed: {fault}"
            print(f"{number} of {len(runs)}: {' '.join(runs[ended][0][0].options)}: {outcome}", flush=True)


def _figures_of_run(study: Study, asked: Sequence[tuple[Arm, int, bool]]) -> None:
    for arm, seed, inspects in asked:
        study.figures(arm, seed, inspects)


def add_options(parser: argparse.ArgumentParser, only: str, most: int) -> None:
    """The options that all studies have; ``only``: what of a study is asked for by --only. ``most``: pictures."""
    parser.add_argument("--runs", type=Path, required=True, help="folder that keeps students and figures")
    parser.add_argument("--only", help=f"{only}, with commas between, in order; default: all")
    parser.add_argument("--seeds", default="0,1,2", help="of the trainings, with commas between; two at least")
    parser.add_argument("--iterations", type=int, help="of every student, to try the program; default: its own")
    parser.add_argument("--images", type=int, default=most, help=f"so many of the {most:,} pictures")
    parser.add_argument("--device", default="cpu", help="of trainings and samplings")
    parser.add_argument("--jobs", type=int, default=1, help="students made beside each other, on a thread each")
    parser.add_argument("--json", type=Path, help="also write all figures, versions and machine here")
    add_keep(parser)


def asked_for(parser: argparse.ArgumentParser, only: str | None, known: Collection[str]) -> list[str]:
    """The names of ``known`` that --only gives, each once; the parser refuses others."""
    names = list(known) if only is None else list(dict.fromkeys(only.split(",")))
    if unknown := [name for name in names if name not in known]:
        parser.error(f"--only {unknown[0]}: there is none; known: {', '.join(known)}")
    return names


def seeds_of(parser: argparse.ArgumentParser, text: str) -> list[int]:
    """The seeds of --seeds; the parser refuses a single one."""
    seeds = [int(seed) for seed in text.split(",")]
    if len(seeds) < 2:
        parser.error("a spread needs two seeds: --seeds 0,1,2")
    return seeds


def _name(what: object) -> str:
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]


def piflow(*arguments: str) -> str:
    """What a command line of piflow prints, run in this process: to begin one would take longer than many a student.

    Raises RuntimeError where it fails; what it said is on stderr.
    """
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = main(list(arguments))
    if code != 0:
        raise RuntimeError(f"piflow {' '.join(arguments)}: exit code {code}")
    return printed.getvalue()


@functools.cache
def _ruler(images: int, device: str, family: str, base: str, kept: Path) -> Ruler:
    data = load_images(locate("preset:digits/images.safetensors"))
    return Ruler(data, images, torch.device(device), family, base, kept)


def inspected(folder: Path, device: str, *options: str) -> Measured:
    """What `piflow inspect-policy` tells of noise put in half-way, of how fast the paths part, and of the teacher.

    not_steered: 1 less the steering ratio, which is 1 for a policy that answers as its teacher does.
    growth: the power of the time since the source with which the distance of the paths grows.
    teacher_error: of the teacher's velocity where noise was added to its own path. endpoint_error: of the samples.
    """
    report = folder / "inspected" / "policy.json"
    if not _is_told(report):
        given = ("--output", str(report.parent), "--device", device, "--overwrite", "--quiet")
        piflow("inspect-policy", str(folder), *given, *options)
    student = json.loads(report.read_text())["students"][0]
    typical = next(one for one in student["robustness"]["perturbations"] if one["size"] == size_name(TYPICAL))
    first = student["steps"][0]
    return {
        "not_steered": 1 - typical["steering"],
        "velocity_error": student["trajectory_error"],
        "growth": growth(first["raws"], first["gap"]),
        "teacher_error": student["teacher_robustness"]["velocity_error"],
        "endpoint_error": student["endpoint_error"],
    }


def _is_told(report: Path) -> bool:
    """Whether ``report`` is there, and of a version that looks at the teacher too."""
    return report.exists() and "teacher_robustness" in json.loads(report.read_text())["students"][0]


def growth(raws: Sequence[float], gaps: Sequence[float]) -> float:
    """The slope of log gap over log (raws[0] - raw), by least squares over the middle of the segment."""
    whole = raws[0] - raws[-1]
    points = [
        (math.log(raws[0] - raw), math.log(gap))
        for raw, gap in zip(raws, gaps)
        if FROM <= (raws[0] - raw) / whole <= TO and gap > 0
    ]
    times, logs = zip(*points)
    return statistics.linear_regression(times, logs).slope
