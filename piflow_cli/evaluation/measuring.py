"""From stored states and features to rows of results, for one student and whoever stands beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..sampling.request import ImageSpec
from ..sampling.trajectory import POINTS, relative_error
from .candidates import TEACHER, Candidate
from .chosen_extractors import PATCH, ChosenExtractor, ChosenExtractors, Reader, feature_set, reference_of
from .compared import Compared
from .generate import Generation
from .metrics.alignment import alignment
from .metrics.frechet_interval import TARGET
from .metrics.of_features import Measure, measure
from .metrics.perceptual import open_lpips, why_no_lpips
from .metrics.scores import diversity
from .metrics.speed import student_speed, teacher_speed
from .metrics.trajectory import PATHS, trajectory_errors
from .report import Report
from .request import EvalRequest
from .rows import Row, ranges

if TYPE_CHECKING:
    from ..console import Console

DISTANCES = ("fid", PATCH)


@dataclass
class Measuring:
    """All rows of one bench. ``subjects`` are those that get rows; the teacher's fine
    solution is what they are compared with."""

    request: EvalRequest
    compared: Compared
    generation: Generation
    extractors: ChosenExtractors
    all_chosen: Sequence[ChosenExtractor]
    reader: Reader | None
    candidates: Sequence[Candidate]
    report: Report

    def run(self, console: Console) -> None:
        """Measure everything that was asked for and can be had; notes say what cannot."""
        measures = self.request.measures
        for chosen in self.all_chosen:
            if chosen.metrics:
                self._distributions(chosen)
        if self.reader is not None:
            self._readings(self.reader)
        parts = {"alignment": self._alignments, "diversity": self._diversities, "trajectory": self._trajectories}
        for metric, part in parts.items():
            if metric in measures and self.compared.teacher is not None:
                part()
            elif metric in measures:
                self.report.notes.append(f"no {metric}: {self.compared.why_not}")
        if "speed" in measures:
            console.say("timing")
            self._speeds()

    def _distributions(self, chosen: ChosenExtractor) -> None:
        fine = self.compared.fine
        # A distance of few pictures is extrapolated from their features; of many, moments do.
        keep = any(name not in DISTANCES for name in chosen.metrics) or len(self.generation.specs) < TARGET
        same_noise = reference_of(self.request, self.compared) == TEACHER
        if same_noise:
            assert fine is not None, "a reference that is not at hand is refused before anything is generated"
            reference = feature_set(self.generation, fine, chosen, keep)
        else:
            reference = self.extractors.reference(self.compared, chosen)
        for candidate in self.candidates:
            ours = feature_set(self.generation, candidate, chosen, keep)
            if chosen.metrics == (PATCH,):
                found = [
                    replace(number, metric=PATCH)
                    for number in measure(["fid"], ours, reference, chosen.extractor, same_noise=same_noise)
                ]
            else:
                found = measure(chosen.metrics, ours, reference, chosen.extractor, same_noise=same_noise)
            self.report.rows += [self._row_of(candidate, number) for number in found]

    def _readings(self, reader: Reader) -> None:
        for candidate in self.candidates:
            scores = torch.cat(list(self.generation.features(candidate, reader.tag)))
            self.report.rows.append(
                self._row(
                    candidate,
                    "clip",
                    scores.double().mean().item(),
                    len(scores),
                    extractor=reader.clip.name,
                    resize="its own",
                )
            )

    def _row_of(self, candidate: Candidate, found: Measure) -> Row:
        return self._row(
            candidate, found.metric, found.value, found.images, low=found.low, high=found.high,
            extractor=found.extractor,
            resize=found.resize, reference=found.reference, reference_images=found.reference_images, note=found.note,
        )  # fmt: skip

    def _row(self, candidate: Candidate, metric: str, value: float, images: int, **more) -> Row:
        seeds = ranges(dict.fromkeys(spec.seed for spec in self.generation.specs[:images]))
        return Row(
            candidate.name,
            candidate.kind,
            candidate.policy,
            candidate.evaluations,
            metric,
            value,
            images,
            seeds=seeds,
            **more,
        )

    def _alignments(self) -> None:
        opened = self.compared.opened
        perceptual = open_lpips(opened.device)
        if perceptual is None and self.request.asks("alignment"):
            self.report.notes.append(f"no LPIPS: {why_no_lpips()}")
        for candidate in self.candidates:
            found = alignment(self._pairs(candidate), opened.decode, perceptual)
            for metric, value in {"mse": found.mse, "psnr": found.psnr, "lpips": found.lpips}.items():
                if value is not None:
                    self.report.rows.append(self._row(candidate, metric, value, found.count, reference=self._fine_name))

    def _pairs(self, candidate: Candidate) -> Iterator[tuple[Tensor, Tensor]]:
        """States of ``subject`` and of the fine solution, a batch at a time: pictures take more room than states."""
        blocks = zip(self.generation.states(candidate), self.generation.states(self.compared.fine), strict=True)
        for ours, fine in blocks:
            for pair in zip(ours.split(self.generation.batch_size), fine.split(self.generation.batch_size)):
                yield tuple(states.to(self.compared.opened.device) for states in pair)

    def _diversities(self) -> None:
        specs = self.generation.aligned
        groups = group_numbers(specs)
        if Counter(groups.tolist()).most_common(1)[0][1] < 2:
            self.report.notes.append(f"no diversity: no label or prompt comes twice among {len(specs)} pictures")
            return
        chosen = self.all_chosen[0]
        spreads = [self._spread(candidate, chosen, groups) for candidate in (self.compared.fine, *self.candidates)]
        if spreads[0] == 0:
            self.report.notes.append(
                f"no diversity: to {chosen.extractor.name} all of the teacher's pictures of one label or prompt are the"
                " same"
            )
            return
        names = {"extractor": chosen.extractor.name, "resize": chosen.extractor.resize, "reference": self._fine_name}
        for candidate, spread in zip(self.candidates, spreads[1:]):
            self.report.rows.append(self._row(candidate, "diversity", spread / spreads[0], len(specs), **names))

    def _spread(self, candidate: Candidate, chosen: ChosenExtractor, groups: Tensor) -> float:
        return diversity(torch.cat(list(self.generation.features(candidate, chosen.tag, aligned=True))), groups)

    @property
    def _fine_name(self) -> str:
        return f"the teacher's {self.compared.fine.evaluations} steps"

    def _trajectories(self) -> None:
        compared, request = self.compared, self.request
        for candidate in compared.students:
            settings = {
                "steps": candidate.evaluations,
                "substeps": request.substeps,
                "temperature": request.temperature,
            }
            specs = self.generation.specs
            errors = trajectory_errors(compared.opened, compared.teacher, specs, self.generation.batch_size, **settings)
            self.report.errors[candidate.title] = (candidate.name, errors)
            detail = f"at {POINTS} times of each evaluation"
            self.report.rows.append(
                self._row(candidate, "velocity-error", relative_error(errors), min(PATHS, len(specs)), detail=detail)
            )

    def _speeds(self) -> None:
        request, opened = self.request, self.compared.opened
        specs = self.generation.blocks[0].specs[: self.generation.batch_size]
        for candidate in self.candidates:
            if candidate.kind == TEACHER:
                found = teacher_speed(opened, self.compared.teacher, specs, candidate.evaluations)
            else:
                found = student_speed(opened, specs, candidate.evaluations, request.substeps, request.temperature)
            times = {"images-per-second": found.images, "network-ms": found.network, "policy-ms": found.policy}
            for metric, value in times.items():
                if value is not None:
                    scale = 1000 if metric.endswith("-ms") else 1
                    detail = f"batches of {found.batch} on {opened.device}"
                    self.report.rows.append(self._row(candidate, metric, scale * value, found.batch, detail=detail))


def group_numbers(specs: Sequence[ImageSpec]) -> Tensor:
    """Which label or prompt each shot is of, (N,) int64."""
    return torch.tensor([spec.label if spec.number is None else spec.number for spec in specs])
