"""Students of the claims: distilled by piflow, measured, and kept."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from claim_table import Arm
from common import write_json
from digits import Ruler

from piflow_cli.data.labelled_images import load_images
from piflow_cli.inspection.robustness import TYPICAL, size_name
from piflow_cli.sampling.denoise import sample_student
from piflow_cli.students.open import open_student
from piflow_cli.weights.locate import locate

Measured = dict[str, float]
FROM, TO = 0.25, 0.75  # parts of the first segment between which the growth of the error is taken


def figures_of(arm: Arm, seed: int, runs: Path, shorter: int | None, images: int) -> Measured:
    """The figures of one student, taken once and kept beside its run."""
    folder = runs / _name((*arm.options, seed, shorter))
    sampled = folder / f"measured-{_name((arm.sampling, images))}.json"
    if not sampled.exists():
        _distil(arm, seed, folder, shorter)
        write_json(sampled, {**_distances(arm, folder, images), **_inspected(folder)})
    return json.loads(sampled.read_text())


def _name(what: object) -> str:
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]


def _piflow(*arguments: str) -> str:
    command = [sys.executable, "-m", "piflow_cli", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _distil(arm: Arm, seed: int, folder: Path, shorter: int | None) -> None:
    given = [*arm.options, "--set", f"seed={seed}"]
    if shorter is not None:
        given += ["--set", f"optimisation.iterations={shorter}"]
    _piflow("distill", "--teacher", "digits", "--output", str(folder), *given, "--quiet")


@functools.cache
def _ruler(images: int) -> Ruler:
    return Ruler(load_images(locate("preset:digits/images.safetensors")), images)


@torch.no_grad()
def _distances(arm: Arm, folder: Path, images: int) -> Measured:
    """Distances to the data, to the teacher's fine samples, and squared ones from the same noise, as in digits.py."""
    ruler = _ruler(images)
    student = open_student(folder / "adapter")
    row = ruler.row("", arm.nfe, sample_student(student, ruler.noise, ruler.conditioning, **arm.sampling))
    return {name: row[name] for name in ("to_data", "to_teacher", "squared_distance")}


def _inspected(folder: Path) -> Measured:
    """What `piflow inspect-policy` tells of a perturbation put in half-way, and how fast the paths part.

    not_steered: 1 less the steering ratio, which is 1 for a policy that answers as its teacher does.
    growth: the power of the time since the source with which the distance of the paths grows.
    """
    report = folder / "inspected"
    if not (report / "policy.json").exists():
        _piflow("inspect-policy", str(folder), "--output", str(report), "--overwrite", "--quiet")
    told = json.loads((report / "policy.json").read_text())
    student = told["students"][0]
    typical = next(one for one in student["robustness"]["perturbations"] if one["size"] == size_name(TYPICAL))
    first = student["steps"][0]
    return {
        "not_steered": 1 - typical["steering"],
        "velocity_error": student["trajectory_error"],
        "growth": growth(first["raws"], first["gap"]),
    }


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
