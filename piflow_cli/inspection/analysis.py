"""All analyses of one student, over the pictures of an opened model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.imitation import TeacherVelocity
from ..core.policies.kinds import policy_kind
from ..reports.images import to_images
from ..sampling.denoise import seeded_generators, seeded_noise
from ..sampling.opened import OpenedModel
from ..sampling.request import ImageSpec, batches
from ..sampling.teacher import OwnTeacher
from ..sampling.trajectory import POINTS, PolicyPath, VelocityError, pooled, times, walk
from ..students.facts import StudentFacts
from ..teachers.text_to_image import TextToImageFamily
from .against_teacher import Comparison, PathDistance, compare
from .kinds.anatomy import anatomy_of
from .motion import Motion, motion, straightness
from .request import Position
from .robustness import Response, component_dropout, perturb
from .slices import Slice, slice_of
from .substeps import Convergence, convergence
from .teacher_robustness import Pushes, push, pushed_states
from .tensors import joined, mean_square, middle, present, to_host

if TYPE_CHECKING:
    from PIL.Image import Image
    from tqdm import tqdm

SHOWN = 4
DROPOUT = "imitation.dropout"
SHOWN_TIMES = (0, 2, 4, 6, 7)
CLASS_BATCH, TEXT_BATCH = 64, 1


@dataclass(frozen=True)
class EvaluationFindings:
    """Findings of one network evaluation; numbers of samples stand one after the other.

    Those that need a teacher, or a part that the policy lacks, may be None.
    """

    index: int
    raws: tuple[float, ...]
    composition: Any
    motion: Motion
    switching: Any
    convergence: Convergence
    errors: list[VelocityError] | None
    apart: PathDistance | None
    pushes: Pushes | None


@dataclass(frozen=True)
class CloseUp:
    """Findings of the evaluation that was asked for.

    ``responses``: to perturbations, by their size. ``dropout`` (B, K): of components. Of the first SHOWN samples:
    ``maps`` of components by position, and pictures of x_0 at ``shown_raws`` along the student's path, as policy and
    teacher see it. ``slice``: of the first sample.
    """

    responses: dict[str, Response]
    dropout: Tensor | None
    maps: list[Any] | None
    shown_raws: tuple[float, ...]
    estimates: list[list[Image]]
    teacher_estimates: list[list[Image]] | None
    slice: Slice | None


@dataclass(frozen=True)
class Findings:
    """All findings of one student.

    ``straightness`` (B,): of whole paths. ``gap`` (B,): mean squares of its samples minus the teacher's from the same
    noise. ``ends`` and ``teacher_ends``: the first SHOWN of them as pictures.
    """

    path: Path
    facts: StudentFacts
    specs: tuple[ImageSpec, ...]
    at: int
    evaluations: list[EvaluationFindings]
    close: CloseUp
    straightness: Tensor
    gap: Tensor | None
    ends: list[Image]
    teacher_ends: list[Image] | None


@torch.no_grad()
def examine(
    opened: OpenedModel, teacher: OwnTeacher | None, at: int, position: Position | None, progress: tqdm
) -> Findings:
    """Findings of every evaluation, and a close-up of evaluation ``at`` (from 1), over all pictures of ``opened``.

    ``progress`` counts pictures.
    """
    family, found = opened.student.family, []
    text = isinstance(family, TextToImageFamily)
    for specs in batches(opened.specs, TEXT_BATCH if text else CLASS_BATCH):
        with opened.computing():
            here = position if not found else None
            found.append(_Batch(opened, specs, teacher, family.beside_steps, at, here).examined())
        progress.update(len(specs))
    return _merged(found)


class _Batch:
    """One batch of pictures on its way from noise to the samples."""

    def __init__(
        self,
        opened: OpenedModel,
        specs: Sequence[ImageSpec],
        teacher: OwnTeacher | None,
        steps: int,
        at: int,
        position: Position | None,
    ) -> None:
        self.opened, self.steps, self.at, self.position = opened, steps, at, position
        self.facts = opened.student.facts
        self.specs = specs
        self.conditioning = opened.conditioning(specs)
        self.velocity: TeacherVelocity | None = None
        if teacher is not None:
            self.velocity = self._velocity(teacher)

    def examined(self) -> Findings:
        noise = self.opened.noise(self.specs)
        start = self.opened.student.family.parameterisation.first_state(noise)
        theirs, states, evaluations, close = start, [start], [], None
        for path in walk(self.opened.student, noise, self.conditioning, points=POINTS):
            against = None
            if self.velocity is not None:
                against = compare(path, self.velocity, theirs, self.facts.shift, self.steps)
                theirs = against.end
            evaluations.append(self._evaluation(path, against))
            if path.index + 1 == self.at:
                close = self._close_up(path, against)
            states += [*path.states[1:], path.end]
        assert close is not None, "the evaluation is one of the student's"
        return Findings(
            path=Path(self.opened.found.named),
            facts=self.facts,
            specs=tuple(self.specs),
            at=self.at,
            evaluations=evaluations,
            close=close,
            straightness=straightness(torch.stack([x.flatten(1) for x in states], dim=1)).cpu(),
            gap=None if self.velocity is None else mean_square(states[-1] - theirs).cpu(),
            ends=self._pictures(states[-1]),
            teacher_ends=None if self.velocity is None else self._pictures(theirs),
        )

    def _evaluation(self, path: PolicyPath, against: Comparison | None) -> EvaluationFindings:
        anatomy = anatomy_of(path.policy)
        return EvaluationFindings(
            index=path.index,
            raws=(*path.raws, path.raw_end),
            composition=None if anatomy.by_sample is None else to_host(anatomy.by_sample(path.policy)),
            motion=to_host(motion(path)),
            switching=None if anatomy.switching is None else to_host(anatomy.switching(path, self.facts.substeps)),
            convergence=to_host(convergence(path)),
            errors=None if against is None else against.errors,
            apart=None if against is None else to_host(against.apart),
            pushes=None if against is None else to_host(self._pushes(path, against)),
        )

    def _pushes(self, path: PolicyPath, against: Comparison) -> Pushes:
        assert self.velocity is not None, "the teacher has been compared with"
        asked = pushed_states(path.index, len(path.raws), self.facts.nfe)
        return push(against, asked, path.raws, self.velocity, self._perturbation(), self.facts.shift)

    def _close_up(self, path: PolicyPath, against: Comparison | None) -> CloseUp:
        by_position = anatomy_of(path.policy).by_position
        components = None if by_position is None else by_position(path.policy)
        substeps, shift = self.facts.substeps, self.facts.shift
        responses = perturb(path, self._perturbation(), self.velocity, shift, substeps)
        shown = [(path.raws[index], path.states[index]) for index in SHOWN_TIMES]
        return CloseUp(
            responses={name: to_host(response) for name, response in responses.items()},
            dropout=component_dropout(path, substeps).cpu()
            if DROPOUT in policy_kind(self.facts.policy).settings
            else None,
            maps=None if components is None else _maps(components),
            shown_raws=tuple(raw for raw, _ in shown),
            estimates=[self._pictures(path.policy.posterior_mean(x, times(raw, x))) for raw, x in shown],
            teacher_estimates=None
            if against is None
            else [self._pictures(against.estimates[index]) for index in SHOWN_TIMES],
            slice=None if self.position is None else slice_of(path, self.position, substeps),
        )

    def _velocity(self, teacher: OwnTeacher) -> TeacherVelocity:
        def velocity(x: Tensor, sigma: Tensor) -> Tensor:
            # Rollouts leave the precision of networks, and a teacher that is followed by one needs it back.
            with self.opened.computing():
                return teacher.velocity(x, sigma, self.conditioning)

        return velocity

    def _perturbation(self) -> Tensor:
        """The second noise of each picture's own generator; the first one starts the picture."""
        generators = seeded_generators([spec.seed for spec in self.specs])
        shape = self.opened.shape_of(self.specs[0])
        return [seeded_noise(generators, shape) for _ in range(2)][1].to(self.opened.device)

    def _pictures(self, states: Tensor) -> list[Image]:
        """Pictures of the first SHOWN; of videos their middle frames."""
        shown = self.opened.decode(states[:SHOWN])
        return to_images(shown if shown.ndim == 4 else shown[:, :, middle(shown.shape[2])])


def _maps(found: Any) -> list[Any]:
    """The components of the first SHOWN samples one by one, since pictures of different sizes do not stack.

    Of videos they are those of the latent frame in the middle, and have no axis of frames.
    """
    space = found.effective.shape[1:]

    def still(value: Tensor) -> Tensor:
        of_frames = len(space) == 3 and value.shape[-3:] == space
        return value.select(-3, middle(space[0])) if of_frames else value

    return [
        type(found)(*(still(value[index : index + 1]).cpu() for value in found))
        for index in range(min(SHOWN, len(found.effective)))
    ]


def _merged(batches: list[Findings]) -> Findings:
    """The findings of several batches as if they had been one; pictures are those of the first SHOWN samples."""
    first = batches[0]
    gaps, teacher_ends = present(batch.gap for batch in batches), present(batch.teacher_ends for batch in batches)
    return Findings(
        path=first.path,
        facts=first.facts,
        specs=tuple(spec for batch in batches for spec in batch.specs),
        at=first.at,
        evaluations=[_merged_evaluation(column) for column in zip(*(batch.evaluations for batch in batches))],
        close=_merged_close([batch.close for batch in batches]),
        straightness=torch.cat([batch.straightness for batch in batches]),
        gap=torch.cat(gaps) if gaps else None,
        ends=_first([batch.ends for batch in batches]),
        teacher_ends=_first(teacher_ends) if teacher_ends else None,
    )


def _merged_evaluation(parts: Sequence[EvaluationFindings]) -> EvaluationFindings:
    first = parts[0]
    compositions, switchings = present(part.composition for part in parts), present(part.switching for part in parts)
    errors, aparts = present(part.errors for part in parts), present(part.apart for part in parts)
    pushes = present(part.pushes for part in parts)
    counts = [len(part.motion.straightness) for part in parts]
    return EvaluationFindings(
        index=first.index,
        raws=first.raws,
        composition=joined(compositions) if compositions else None,
        motion=joined([part.motion for part in parts]),
        switching=joined(switchings) if switchings else None,
        convergence=joined([part.convergence for part in parts]),
        errors=pooled(list(zip(counts, errors))) if errors else None,
        apart=joined(aparts) if aparts else None,
        pushes=joined(pushes) if pushes else None,
    )


def _merged_close(parts: Sequence[CloseUp]) -> CloseUp:
    first = parts[0]

    def pictures(columns: list[list[list[Image]]]) -> list[list[Image]]:
        return [_first(column) for column in zip(*columns)]

    dropouts, maps = present(part.dropout for part in parts), present(part.maps for part in parts)
    teacher_estimates = present(part.teacher_estimates for part in parts)
    return CloseUp(
        responses={name: joined([part.responses[name] for part in parts]) for name in first.responses},
        dropout=torch.cat(dropouts) if dropouts else None,
        maps=_first(maps) if maps else None,
        shown_raws=first.shown_raws,
        estimates=pictures([part.estimates for part in parts]),
        teacher_estimates=pictures(teacher_estimates) if teacher_estimates else None,
        slice=first.slice,
    )


def _first(lists: Sequence[list]) -> list:
    return [item for part in lists for item in part][:SHOWN]
