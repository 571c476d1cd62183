"""From stored states and features to rows of results, for one student and the models beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ..packages import object_at
from ..sampling.teacher import OwnTeacher
from .candidates import TEACHER, Candidate
from .chosen_extractors import ChosenExtractor, ChosenExtractors, feature_set, reference_of
from .compared import Compared
from .distributions import TARGET, Measure, each_is_needed, measure
from .generate import Generation, MetricExtractor
from .metric_kinds import OWN_TEACHER, STUDENT, metric_kind
from .report import Report
from .request import EvalRequest
from .rows import Row, ranges

if TYPE_CHECKING:
    from ..console import Console

OF_VIDEOS = (
    "an image is a video of {} frames. Its features are the mean of those of its frames, and beside it the root mean"
    " square of their change from one to the next: no distance here is the FVD of papers. Other distances of two"
    " videos, and CLIP, are means over frames."
)


@dataclass
class Measuring:
    """All rows of one student and the models beside it.

    ``candidates``: those that get rows; they are compared with the teacher's fine solution. ``metric_extractors``:
    those of one metric alone, by its name.
    """

    request: EvalRequest
    compared: Compared
    generation: Generation
    extractors: ChosenExtractors
    all_chosen: Sequence[ChosenExtractor]
    metric_extractors: Mapping[str, MetricExtractor]
    candidates: Sequence[Candidate]
    report: Report
    console: Console

    def run(self) -> None:
        """Measure everything that was asked for and can be had; notes say what cannot."""
        if (frames := self.compared.frames) is not None:
            self.note(f"{self.compared.students[0].name}: {OF_VIDEOS.format(frames)}")
        for chosen in self.all_chosen:
            if chosen.metrics:
                self._distributions(chosen)
        for kind in map(metric_kind, self.compared.measures(self.request)):
            if STUDENT not in kind.needs:
                continue
            if OWN_TEACHER in kind.needs and self.compared.teacher is None:
                self.note(f"no {kind.name}: {self.compared.why_not}")
            else:
                self.report.rows += object_at(kind.measure)(self)

    def note(self, text: str) -> None:
        """Add what a reader of the numbers must know."""
        self.report.notes.append(text)

    def _distributions(self, chosen: ChosenExtractor) -> None:
        # A distance of few pictures is extrapolated from their features; of many, moments do.
        keep = each_is_needed(chosen.metrics) or len(self.generation.specs) < TARGET
        same_noise = reference_of(self.request, self.compared) == TEACHER
        if same_noise:
            reference = feature_set(self.generation, self.fine, chosen, keep)
        else:
            reference = self.extractors.reference(self.compared, chosen)
        for candidate in self.candidates:
            ours = feature_set(self.generation, candidate, chosen, keep)
            found = measure(chosen.metrics, ours, reference, chosen.extractor, same_noise=same_noise)
            self.report.rows += [self._row_of(candidate, number) for number in found]

    def _row_of(self, candidate: Candidate, found: Measure) -> Row:
        return self.row(
            candidate, found.metric, found.value, found.images, low=found.low, high=found.high,
            estimate=found.estimate, at=found.at,
            extractor=found.extractor,
            resize=found.resize, reference=found.reference, reference_images=found.reference_images, note=found.note,
        )  # fmt: skip

    def row(self, candidate: Candidate, number: str, value: float, images: int, **more) -> Row:
        """The row of one ``number`` of a candidate over the first ``images``; ``more``: its protocol."""
        seeds = ranges(list(dict.fromkeys(spec.seed for spec in self.generation.specs[:images])))
        return Row(
            candidate.name,
            candidate.kind,
            candidate.policy,
            candidate.evaluations,
            number,
            value,
            images,
            seeds=seeds,
            trained=candidate.trained,
            **more,
        )

    def pairs(self, candidate: Candidate) -> Iterator[tuple[Tensor, Tensor]]:
        """States of ``candidate`` and of the fine solution, a batch at a time: pictures take more room than states."""
        chunks = zip(self.generation.states(candidate), self.generation.states(self.fine), strict=True)
        for ours, fine in chunks:
            for pair in zip(ours.split(self.generation.batch_size), fine.split(self.generation.batch_size)):
                yield tuple(states.to(self.compared.opened.device) for states in pair)

    @property
    def teacher(self) -> OwnTeacher:
        """The student's teacher; metrics that need one are asked for only where there is one."""
        assert self.compared.teacher is not None, "a metric that is told of the teacher says that it needs one"
        return self.compared.teacher

    @property
    def fine(self) -> Candidate:
        """That teacher's fine solution."""
        assert self.compared.fine is not None, "there is a fine solution where there is a teacher"
        return self.compared.fine

    @property
    def fine_name(self) -> str:
        """The name of the fine solution in rows that are compared with it."""
        return f"the teacher's {self.fine.evaluations} steps"
