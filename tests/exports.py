"""Students to export, and exports of them, for the tests of what is exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import diffusers
import torch
from tiny_pipeline import whole_pipeline
from tiny_students import tiny_student
from tiny_vae import tiny_vae
from torch import Tensor
from zoo import ZOO, conditioning, disturb, states, stock_pipeline, student_of

from piflow_cli.console import Console
from piflow_cli.exporting.formats import FORMATS
from piflow_cli.exporting.request import ExportRequest
from piflow_cli.sampling.denoise import sample_student
from piflow_cli.students.student import Student
from piflow_cli.teachers import family_of

NAMES = (*ZOO, "dit")
# Those that are exported as whole pipelines.
PIPELINES = tuple(name for name in NAMES if family_of(name).modular_blocks is None)
LABELS = [0, 2]


def student(name: str, base: Path | None = None, policy: str = "gm", dtype: torch.dtype = torch.float32) -> Student:
    """A student that training has moved, of a family by its name, which says that its base is the folder ``base``."""
    if name == "dit":
        return tiny_student(policy)
    row = ZOO[name]
    base_model = row.build()
    moved = student_of(row, base_model if dtype == torch.float32 else base_model.to(dtype), policy)
    disturb(moved)
    moved.facts = replace(moved.facts, base=str(base))
    return moved


def whole_base(name: str, folder: Path) -> Path:
    """A saved pipeline of the family: of FLUX with text encoders, of the others with its VAE alone."""
    if name == "flux":
        whole_pipeline(folder)
        return folder
    row = ZOO[name]
    family = family_of(name)
    given = {
        **family.parts(row.build()),
        "vae": tiny_vae(name, row.factor),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(),
    }
    stock_pipeline(family.pipeline_class, **given, **family.pipeline_options).save_pretrained(folder)
    return folder


def export(which: Student, format: str, folder: Path, **options: object) -> Path:
    """Write and verify as the driver does; returns the folder."""
    request = ExportRequest("student", format, folder, **options)
    kind = FORMATS[format].open()
    kind.check(which.facts, request)
    folder.mkdir()
    kind.write(which, folder, request, Console(quiet=True))
    assert kind.verify(which, folder, request) <= kind.tolerance(request)
    return folder


def noise(which: Student) -> Tensor:
    """Where samples start, (2, C, *S)."""
    if which.facts.family == "dit":
        return torch.randn(2, *which.family.sample_shape(which.model), generator=torch.Generator().manual_seed(5))
    return states(ZOO[which.facts.family], seed=5)


def told(which: Student) -> dict[str, Tensor]:
    """What both samples are conditioned on."""
    return (
        which.family.condition(which.model, LABELS)
        if which.facts.family == "dit"
        else conditioning(ZOO[which.facts.family])
    )


def own_samples(which: Student) -> Tensor:
    """What the student makes of them here, (2, C, *S)."""
    return sample_student(which, noise(which), told(which))
