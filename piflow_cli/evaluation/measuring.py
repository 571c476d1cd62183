"""From stored states and features to rows of results, for one student and whoever stands beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..sampling.request import Shot
from ..sampling.trajectory import POINTS, relative_error
from .candidates import TEACHER, Subject
from .chosen_extractors import PATCH, Eye, Eyes, Reader, feature_set, reference_of
from .compared import Bench
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
    """All rows of one bench. ``subjects`` are those that get rows; the teacher's fine solution is what they are compared with."""

    request: EvalRequest
    bench: Bench
    generation: Generation
    eyes: Eyes
    looking: Sequence[Eye]
    reader: Reader | None
    subjects: Sequence[Subject]
    report: Report

    def run(self, console: Console) -> None:
        """Measure everything that was asked for and can be had; notes say what cannot."""
        measures = self.request.measures
        for eye in self.looking:
            if eye.metrics:
                self._distributions(eye)
        if self.reader is not None:
            self._readings(self.reader)
        parts = {"alignment": self._alignments, "diversity": self._diversities, "trajectory": self._trajectories}
        for metric, part in parts.items():
            if metric in measures and self.bench.teacher is not None:
                part()
            elif metric in measures:
                self.report.notes.append(f"no {metric}: {self.bench.why_not}")
        if "speed" in measures:
            console.say("timing")
            self._speeds()

    def _distributions(self, eye: Eye) -> None:
        fine = self.bench.fine
        # A distance of few pictures is extrapolated from their features; of many, moments do.
        keep = any(name not in DISTANCES for name in eye.metrics) or len(self.generation.shots) < TARGET
        same_noise = reference_of(self.request, self.bench) == TEACHER
        if same_noise:
            assert fine is not None, "a reference that is not at hand is refused before anything is generated"
            reference = feature_set(self.generation, fine, eye, keep)
        else:
            reference = self.eyes.reference(self.bench, eye)
        for subject in self.subjects:
            ours = feature_set(self.generation, subject, eye, keep)
            if eye.metrics == (PATCH,):
                found = [replace(number, metric=PATCH) for number in measure(["fid"], ours, reference, eye.extractor, same_noise=same_noise)]
            else:
                found = measure(eye.metrics, ours, reference, eye.extractor, same_noise=same_noise)
            self.report.rows += [self._row_of(subject, number) for number in found]

    def _readings(self, reader: Reader) -> None:
        for subject in self.subjects:
            scores = torch.cat(list(self.generation.features(subject, reader.tag)))
            self.report.rows.append(self._row(subject, "clip", scores.double().mean().item(), len(scores), extractor=reader.clip.name, resize="its own"))

    def _row_of(self, subject: Subject, found: Measure) -> Row:
        return self._row(
            subject, found.metric, found.value, found.images, low=found.low, high=found.high, extractor=found.extractor,
            resize=found.resize, reference=found.reference, reference_images=found.reference_images, note=found.note,
        )  # fmt: skip

    def _row(self, subject: Subject, metric: str, value: float, images: int, **more) -> Row:
        seeds = ranges(dict.fromkeys(shot.seed for shot in self.generation.shots[:images]))
        return Row(subject.name, subject.kind, subject.policy, subject.evaluations, metric, value, images, seeds=seeds, **more)

    def _alignments(self) -> None:
        scene = self.bench.scene
        perceptual = open_lpips(scene.device)
        if perceptual is None and self.request.asks("alignment"):
            self.report.notes.append(f"no LPIPS: {why_no_lpips()}")
        for subject in self.subjects:
            found = alignment(self._pairs(subject), scene.decode, perceptual)
            for metric, value in {"mse": found.mse, "psnr": found.psnr, "lpips": found.lpips}.items():
                if value is not None:
                    self.report.rows.append(self._row(subject, metric, value, found.count, reference=self._fine_name))

    def _pairs(self, subject: Subject) -> Iterator[tuple[Tensor, Tensor]]:
        """States of ``subject`` and of the fine solution, a batch at a time: pictures take more room than states."""
        blocks = zip(self.generation.states(subject), self.generation.states(self.bench.fine), strict=True)
        for ours, fine in blocks:
            for pair in zip(ours.split(self.generation.batch_size), fine.split(self.generation.batch_size)):
                yield tuple(states.to(self.bench.scene.device) for states in pair)

    def _diversities(self) -> None:
        shots = self.generation.aligned
        groups = group_numbers(shots)
        if Counter(groups.tolist()).most_common(1)[0][1] < 2:
            self.report.notes.append(f"no diversity: no label or prompt comes twice among {len(shots)} pictures")
            return
        eye = self.looking[0]
        spreads = [self._spread(subject, eye, groups) for subject in (self.bench.fine, *self.subjects)]
        if spreads[0] == 0:
            self.report.notes.append(f"no diversity: to {eye.extractor.name} all of the teacher's pictures of one label or prompt are the same")
            return
        names = {"extractor": eye.extractor.name, "resize": eye.extractor.resize, "reference": self._fine_name}
        for subject, spread in zip(self.subjects, spreads[1:]):
            self.report.rows.append(self._row(subject, "diversity", spread / spreads[0], len(shots), **names))

    def _spread(self, subject: Subject, eye: Eye, groups: Tensor) -> float:
        return diversity(torch.cat(list(self.generation.features(subject, eye.tag, aligned=True))), groups)

    @property
    def _fine_name(self) -> str:
        return f"the teacher's {self.bench.fine.evaluations} steps"

    def _trajectories(self) -> None:
        bench, request = self.bench, self.request
        for subject in bench.students:
            settings = {"steps": subject.evaluations, "substeps": request.substeps, "temperature": request.temperature}
            shots = self.generation.shots
            errors = trajectory_errors(bench.scene, bench.teacher, shots, self.generation.batch_size, **settings)
            self.report.errors[subject.title] = (subject.name, errors)
            detail = f"at {POINTS} times of each evaluation"
            self.report.rows.append(self._row(subject, "velocity-error", relative_error(errors), min(PATHS, len(shots)), detail=detail))

    def _speeds(self) -> None:
        request, scene = self.request, self.bench.scene
        shots = self.generation.blocks[0].shots[: self.generation.batch_size]
        for subject in self.subjects:
            if subject.kind == TEACHER:
                found = teacher_speed(scene, self.bench.teacher, shots, subject.evaluations)
            else:
                found = student_speed(scene, shots, subject.evaluations, request.substeps, request.temperature)
            times = {"images-per-second": found.images, "network-ms": found.network, "policy-ms": found.policy}
            for metric, value in times.items():
                if value is not None:
                    scale = 1000 if metric.endswith("-ms") else 1
                    detail = f"batches of {found.batch} on {scene.device}"
                    self.report.rows.append(self._row(subject, metric, scale * value, found.batch, detail=detail))


def group_numbers(shots: Sequence[Shot]) -> Tensor:
    """Which label or prompt each shot is of, (N,) int64."""
    return torch.tensor([shot.label if shot.number is None else shot.number for shot in shots])
