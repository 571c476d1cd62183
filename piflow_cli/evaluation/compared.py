"""One student with everything it is measured by: its pictures, its teacher, and the models beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..data.labelled_images import load_images
from ..data.prompts import Prompt, read_prompts
from ..errors import PiflowError, UsageError
from ..presets.bounds import MEASURED
from ..presets.idle import idle_options
from ..sampling.opened import OpenedModel, open_model
from ..sampling.request import ImageSpec, SampleRequest
from ..sampling.teacher import OwnTeacher, own_teacher
from ..students.evaluations import steps_warning
from ..students.open import find_student
from ..teachers.class_conditional import ClassConditionalFamily
from ..teachers.text_to_image import TextToImageFamily
from .candidates import Candidate, student_candidates, teacher_candidate
from .limits import not_measured
from .metric_kinds import VIDEOS, metric_kind
from .reference_kinds import DATA, TEACHER
from .references import training_pictures
from .request import FULL_CLASSES, FULL_PROMPTS, MOST_DATA, QUICK_IMAGES, EvalRequest

if TYPE_CHECKING:
    import torch

    from ..console import Console
    from ..presets.schema import Preset


@dataclass(frozen=True)
class Compared:
    """A student, what its pictures are made from, and the models that are measured on them.

    ``teacher``, ``preset``: None where they are not at hand, with ``why_not``. ``fine``: the teacher at its finest, to
    which the others are compared; ``teachers``: at the step counts that were asked for.
    """

    opened: OpenedModel
    specs: tuple[ImageSpec, ...]
    students: tuple[Candidate, ...]
    teachers: tuple[Candidate, ...]
    fine: Candidate | None
    teacher: OwnTeacher | None
    preset: Preset | None
    why_not: str | None

    @property
    def text(self) -> bool:
        """Whether its pictures are made from prompts."""
        return isinstance(self.opened.student.family, TextToImageFamily)

    @property
    def frames(self) -> int | None:
        """The frames of each of its videos; None where it makes pictures."""
        return self.specs[0].frames

    def measures(self, request: EvalRequest) -> tuple[str, ...]:
        """The metrics that are asked for; videos have more of them where none is named."""
        return request.measures if self.frames is None else request.measures_of_videos

    def refuse_other_kind(self, request: EvalRequest) -> None:
        """Raise UsageError where pictures are asked for a metric of videos, or the reference of videos is pictures."""
        named = self.opened.found.named
        if self.frames is None:
            for name in request.measures:
                if VIDEOS in metric_kind(name).needs:
                    raise UsageError(
                        f"--metrics {name} is of videos, and {named} makes pictures", "leave it out of --metrics"
                    )
            for limit in not_measured(request.limits, request.measures):
                raise UsageError(f"{limit} is of videos, and {named} makes pictures", "leave it out")
        elif request.reference not in (None, TEACHER):
            raise UsageError(
                f"--reference {request.reference}: {named} makes videos, and that would be of pictures",
                "compare it with its teacher: --reference teacher",
            )

    def need_teacher(self, metric: str) -> None:
        """Raise UsageError with the reason why ``metric`` cannot be had, where the teacher is not at hand."""
        if self.teacher is None:
            raise UsageError(
                f"--metrics {metric} needs the student's teacher: {self.why_not}",
                "leave it out of --metrics, or name the run folder",
            )

    def need_reference(self, reference: str, named: bool) -> None:
        """Raise UsageError where ``reference`` is what is not at hand; ``named``: by the user."""
        missing = {TEACHER: self.teacher, DATA: self.preset}
        if reference in missing and missing[reference] is None:
            own = {TEACHER: "needs the student's teacher", DATA: "is what the student was trained on"}
            unnamed = f"{self.opened.found.named} is compared with its teacher where no --reference is named, and "
            raise UsageError(
                (f"--reference {reference} {own[reference]}: " if named else unnamed) + str(self.why_not),
                "name what to compare with: --reference DIR; or its teacher: --teacher FILE.yaml",
            )


def open_compared(path: str, name: str, request: EvalRequest, device: torch.device, console: Console) -> Compared:
    """Open the student at ``path``, called ``name`` in the report, and its teacher.

    Raises:
        UsageError: it is no student, or there are fewer prompts than pictures are wanted.
    """
    found = find_student(path, request.teacher, request.base, subfolder=request.subfolder, say=console.say)
    found.refuse_beyond_pictures("piflow eval", videos=True)
    facts = found.facts
    most = max(request.steps, default=facts.nfe)
    for line in idle_options(facts.policy, most, request.substeps, request.temperature):
        console.warn(f"{name}: {line}")
    for count in request.steps:
        if (line := steps_warning(facts, count)) is not None:
            console.warn(f"{name}: {line}")
    text = isinstance(found.family, TextToImageFamily)
    drawn = SampleRequest(
        labels=request.labels, prompts=_prompts(request) if text else (), seeds=request.seeds,
        prompts_from=None if text else request.prompts_from, text_column=None if text else request.text_column,
        height=request.height, width=request.width, frames=request.frames,
    )  # fmt: skip
    opened = open_model(found, drawn, device=device, console=console)
    preset, teacher, why_not = None, None, None
    try:
        preset = found.preset()
        teacher = own_teacher(opened.student, found.folder, request.teacher)
    except PiflowError as error:
        why_not = error.message
    students = student_candidates(opened, request, name)
    teachers: list[Candidate] = []
    fine = None
    if teacher is not None:
        steps = found.family.fine_steps if request.fine_steps is None else request.fine_steps
        fine = teacher_candidate(opened, teacher, steps, request)
        teachers = [
            teacher_candidate(opened, teacher, count, request)
            for count in request.teacher_steps
            if count != steps or request.reference not in (None, TEACHER)
        ]
    elif request.teacher_steps:
        raise UsageError(
            f"--teacher-steps needs the student's teacher: {why_not}", "leave it out, or name the run folder"
        )
    specs = opened.specs if text else _class_specs(opened, request, preset)
    return Compared(opened, specs, tuple(students), tuple(teachers), fine, teacher, preset, why_not)


def _prompts(request: EvalRequest) -> tuple[Prompt, ...]:
    """As many prompts as pictures are wanted, from the first on; all of them where seeds are given.

    A prompt without a seed takes its own number, so that no two share their noise.
    """
    if request.prompts_from is None:
        raise UsageError("the student is told a text, and none is given", "name them: --prompts FILE")
    prompts = tuple(
        prompt if prompt.seed is not None else replace(prompt, seed=number)
        for number, prompt in enumerate(read_prompts(request.prompts_from, request.text_column))
    )
    if request.seeds is not None:
        if (total := len(prompts) * len(request.seeds)) > MEASURED.most:
            raise UsageError(
                f"{len(prompts):,} prompts with {len(request.seeds):,} seeds each are {total:,} pictures, more than"
                f" {MEASURED.text}",
                "name fewer seeds: --seeds 0-3",
            )
        return prompts
    wanted = FULL_PROMPTS if request.protocol == "full" and request.num_images is None else request.num_images
    if wanted is not None and wanted > len(prompts):
        if len(prompts) == 1:
            raise UsageError(
                f"{request.prompts_from} holds one prompt, and {wanted} are wanted", "write more prompts into it"
            )
        raise UsageError(
            f"{request.prompts_from} holds {len(prompts)} prompts, and {wanted} are wanted",
            f"take --num-images {len(prompts)}",
        )
    return prompts[: QUICK_IMAGES if wanted is None else wanted]


def _class_specs(opened: OpenedModel, request: EvalRequest, preset: Preset | None) -> tuple[ImageSpec, ...]:
    """Specs for seeds from 0 on.

    Labels come in turn, or as the training data have them, so that both have as many of each class.
    """
    labels = request.labels
    # Pictures may be gone; classes in turn are about as frequent as theirs.
    place = None if preset is None else training_pictures(preset)
    data = () if place is None else tuple(load_images(place)[1].tolist())
    seeds = request.seeds if request.seeds is not None else range(_class_count(request, len(data)))
    if labels is None:
        family = opened.student.family
        assert isinstance(family, ClassConditionalFamily), "a student is told a text or a class"
        labels = data or tuple(range(family.class_count(opened.student.model)))
    return tuple(ImageSpec(seed, labels[seed % len(labels)]) for seed in seeds)


def _class_count(request: EvalRequest, data: int) -> int:
    if request.num_images is not None:
        return request.num_images
    if request.protocol is not None:
        return FULL_CLASSES if request.protocol == "full" else QUICK_IMAGES
    return data if 2 <= data <= MOST_DATA else QUICK_IMAGES
