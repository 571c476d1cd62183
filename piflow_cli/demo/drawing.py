"""One picture of a student, its teacher's from the same noise, and what its policy decided on the way."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from ..inspection.image_figures import estimates_figure, maps_figure
from ..inspection.kinds.anatomy import anatomy_named, anatomy_of
from ..reports.images import to_images
from ..sampling.denoise import sample_student
from ..sampling.opened import OpenedModel, open_model
from ..sampling.request import SampleRequest
from ..sampling.teacher import OwnTeacher, own_teacher
from ..sampling.trajectory import PolicyPath, times, walk
from ..students.open import FoundStudent
from ..students.student import Student
from ..teachers.base import Conditioning
from ..teachers.text_to_image import TextToImageFamily

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image
    from torch import Tensor

    from ..console import Console

POINTS = 8  # states of a segment, of which these are shown
SHOWN_POINTS = (0, 2, 4, 6, 7)


@dataclass(frozen=True)
class Asked:
    """The settings of the window: a prompt or a class, the seed, network evaluations of both, and the temperature.

    ``teacher_steps``: 0 draws no teacher. ``temperature``: None is as trained.
    """

    told: str | int
    seed: int
    steps: int
    teacher_steps: int
    temperature: float | str | None = None


@dataclass(frozen=True)
class Drawn:
    """The pictures, the ``maps`` of the policy of the first evaluation, and the seconds that each picture took."""

    student: Image
    teacher: Image | None
    maps: Figure
    seconds: float
    teacher_seconds: float


@dataclass(frozen=True)
class _InMemory(FoundStudent):
    """A found student whose weights were read."""

    student: Student | None = None

    def load(self, **how: Any) -> Student:
        assert self.student is not None, "it was read"
        return self.student


class Drawer:
    """Draws with the student that was found: its weights are read once, and a prompt is encoded when it changes."""

    def __init__(self, found: FoundStudent, request: SampleRequest, device: torch.device, console: Console) -> None:
        self.found, self._request, self._device, self._console = found, request, device, console
        self.texts = isinstance(found.family, TextToImageFamily)
        self.has_components = anatomy_named(found.facts.policy).by_position is not None
        self._told: str | None = None
        self._opened: OpenedModel | None = None
        self._teacher: OwnTeacher | None = None

    def open(self, told: str | int) -> OpenedModel:
        """The student, ready for a prompt or any class; raises the errors of `piflow sample`."""
        if self._opened is None or (self.texts and told != self._told):
            request = replace(self._request, prompts=(str(told),)) if self.texts else self._request
            found = self.found
            if self._opened is not None:
                found = _InMemory(**vars(found), student=self._opened.student)
            self._opened = open_model(found, replace(request, seeds=(0,)), device=self._device, console=self._console)
            self._told = str(told)
        return self._opened

    @torch.no_grad()
    def draw(self, asked: Asked) -> Drawn:
        """The pictures of one setting. Raises UsageError and RunError as `piflow sample` does."""
        opened = self.open(asked.told)
        label = None if self.texts else int(asked.told)
        specs = [replace(opened.specs[0], seed=asked.seed, label=label)]
        noise, conditioning = opened.noise(specs), opened.conditioning(specs)
        how: dict[str, Any] = {"steps": asked.steps, "temperature": asked.temperature}
        begun = time.perf_counter()
        with opened.computing():
            states = sample_student(opened.student, noise, conditioning, **how)
            picture, seconds = _picture(opened, states), time.perf_counter() - begun
            path = next(walk(opened.student, noise, conditioning, points=POINTS, **how))
        maps, begun = _maps(opened, path, picture), time.perf_counter()
        teacher = None if asked.teacher_steps == 0 else self._theirs(opened, noise, conditioning, asked.teacher_steps)
        return Drawn(picture, teacher, maps, seconds, time.perf_counter() - begun)

    def _theirs(self, opened: OpenedModel, noise: Tensor, conditioning: Conditioning, steps: int) -> Image:
        if self._teacher is None:
            self._teacher = own_teacher(opened.student, self.found.folder, self.found.teacher)
        with opened.computing():
            return _picture(opened, self._teacher.sample(noise, conditioning, steps))


def _picture(opened: OpenedModel, states: Tensor) -> Image:
    return to_images(opened.decode(states))[0]


def _maps(opened: OpenedModel, path: PolicyPath, picture: Image) -> Figure:
    """Components by position where a policy has them, else the x_0 that it expects on the way."""
    by_position = anatomy_of(path.policy).by_position
    if by_position is not None:
        found: Any = by_position(path.policy)
        return maps_figure([type(found)(*(value.cpu() for value in found))], [picture])
    shown = [(path.raws[place], path.states[place]) for place in SHOWN_POINTS]
    estimates = [[_picture(opened, path.policy.posterior_mean(x, times(raw, x)))] for raw, x in shown]
    return estimates_figure([raw for raw, _ in shown], {"x_0": estimates})
