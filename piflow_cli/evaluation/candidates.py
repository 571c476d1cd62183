"""The candidates of an evaluation: a student at a number of evaluations, or its teacher at a number of Euler steps."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from .. import __version__
from ..sampling.denoise import sample_student
from ..sampling.teacher import OwnTeacher, own_section
from ..students.shared_base import View
from ..system.files import files_digest, identity_of_place
from ..teachers.base import Conditioning
from ..teachers.folders import teacher_folder
from ..weights.locate import locate
from ..weights.stored import shards_of
from .reference_kinds import TEACHER
from .rows import titled

if TYPE_CHECKING:
    from ..sampling.opened import OpenedModel
    from .request import EvalRequest

# Characters, of up to four bytes each: file systems take names of 255 bytes.
LONGEST_FOLDER = 50


@dataclass(frozen=True, eq=False)
class Candidate:
    """A function from noise (B, C, *S) and conditioning to states (B, C, *S) float32, with its name.

    ``identity``: everything that shapes its states besides the image specs, as JSON; it is part of every key of the
    cache. ``evaluations``: of the network, per picture and without counting guidance twice; ``trained``: those that a
    student was trained for.
    """

    name: str
    kind: Literal["student", "teacher"]
    policy: str
    evaluations: int
    identity: dict
    draw: Callable[[Tensor, Conditioning], Tensor]
    trained: int | None = None

    @property
    def title(self) -> str:
        """Name and evaluations, as plots have it."""
        return titled(self.name, self.kind, self.evaluations, self.trained)

    @property
    def folder(self) -> str:
        """Name and evaluations as the name of one folder; a student's name may be a whole path."""
        return picture_folder(self.name, self.evaluations, taken=self.kind != TEACHER and self.name == TEACHER)


def picture_folder(name: str, evaluations: int, *, taken: bool = False) -> str:
    """The folder of single pictures of the model ``name``, under ``images`` in that of a report.

    ``taken``: another model has the plain name.
    """
    plain = re.sub(r"[^\w.-]+", "-", name).strip("-.")
    if taken or plain != name or len(plain) > LONGEST_FOLDER:
        # The end of a path tells more, and a digest keeps names apart that share it, or are the same without spaces.
        plain = f"{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}-{plain[-LONGEST_FOLDER:].lstrip('-.')}"
    return f"{plain}-{evaluations}"


def student_candidates(opened: OpenedModel, request: EvalRequest, name: str) -> list[Candidate]:
    """The student of ``opened`` at each of the requested numbers of evaluations, or as it was trained."""
    student, facts, files = opened.student, opened.student.facts, opened.found.files
    identity = {
        "kind": "student",
        "weights": files_digest(shards_of(files.weights)),
        # Students from elsewhere have no checksum of it among their weights, and no tensor shows all that it tells.
        "config": None if files.config is None else files_digest([files.config]),
        "facts": asdict(facts),
        "base": _base_identity(opened),
        "substeps": request.substeps,
        "temperature": request.temperature,
        **_machine(opened),
    }

    def draws(steps: int) -> Callable[[Tensor, Conditioning], Tensor]:
        settings: dict[str, Any] = {
            "steps": steps,
            "substeps": request.substeps,
            "temperature": request.temperature,
        }
        return _computing(opened, lambda noise, conditioning: sample_student(student, noise, conditioning, **settings))

    policy = f"{facts.policy}, {facts.components}"
    return [
        Candidate(name, "student", policy, steps, {**identity, "steps": steps}, draws(steps), facts.nfe)
        for steps in request.steps or (facts.nfe,)
    ]


def teacher_candidate(opened: OpenedModel, teacher: OwnTeacher, steps: int, request: EvalRequest) -> Candidate:
    """The teacher of the student in ``opened`` by ``steps`` Euler steps, even in raw time."""
    identity = {
        "kind": TEACHER,
        "family": teacher.family.name,
        "base": _teacher_identity(opened),
        "loras": [asdict(lora) for lora in opened.student.facts.teacher_loras],
        "precision": opened.student.facts.base_precision,
        "guidance": [
            teacher.guidance.scale,
            *teacher.guidance.interval,
            teacher.guidance.orthogonal,
            *([] if teacher.guidance.renormalised is None else ["renormalised"]),
            *([] if teacher.guidance.below is None else ["below", *teacher.guidance.below]),
            teacher.family.guidance,
        ],
        "shift": teacher.shift,
        "steps": steps,
        **_machine(opened),
    }
    draw = _computing(opened, lambda noise, conditioning: teacher.sample(noise, conditioning, steps))
    return Candidate(TEACHER, TEACHER, "Euler", steps, identity, draw)


def _computing(
    opened: OpenedModel, draw: Callable[[Tensor, Conditioning], Tensor]
) -> Callable[[Tensor, Conditioning], Tensor]:
    @torch.no_grad()
    def drawn(noise: Tensor, conditioning: Conditioning) -> Tensor:
        with opened.computing():
            return draw(noise, conditioning).float()

    return drawn


def _machine(opened: OpenedModel) -> dict:
    return {"device": opened.device.type, "dtype": str(opened.dtype), "piflow": __version__}


def _base_identity(opened: OpenedModel) -> str | None:
    """The identity of the weights below adapters; None where a student brings all of its own."""
    return identity_of_place(locate(*opened.found.base)) if isinstance(opened.student.model, View) else None


def _teacher_identity(opened: OpenedModel) -> str:
    shared = _base_identity(opened)
    if shared is not None:
        return shared
    found = opened.found
    return identity_of_place(
        teacher_folder(opened.student.family, own_section(found.facts, found.folder, found.teacher))
    )
