"""Through what pictures are looked at: extractors, opened once for all students, and the references made by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import UsageError
from ..sampling.request import Shot
from ..teachers.long_texts import told_of
from .candidates import TEACHER, Subject
from .compared import Bench
from .extractors import Extractor, centre_patches, open_extractor
from .extractors.features import FeatureSet
from .extractors.moments import MomentAccumulator
from .generate import Generation
from .metrics.clip_score import ClipScore
from .metrics.of_features import FEATURE_METRICS, ONE_BY_ONE, lacking
from .references import DATA, open_reference
from .request import EvalRequest

if TYPE_CHECKING:
    from ..console import Console
    from ..presets.schema import DataSection

PATCH = "patch-fid"
DIGITS = "digits"
# The network of pi-Flow's CLIP similarity; its own processor shows it pictures of 336 pixels.
CLIP = "openai/clip-vit-large-patch14-336"
# Above this a number of small pictures is no longer worth comparing pixel by pixel.
MOST_PIXELS = 4096


@dataclass(frozen=True)
class Eye:
    """An extractor, and what it is asked for: some of FEATURE_METRICS, or patch-fid alone. ``tag``: tells it and its weights."""

    extractor: Extractor
    metrics: tuple[str, ...]
    tag: str

    def __call__(self, pictures: Tensor, shots: Sequence[Shot]) -> Tensor:
        return self.extractor.features(pictures).float()


@dataclass(frozen=True)
class Reader:
    """CLIP, which is shown pictures with their prompts: one number a picture."""

    clip: ClipScore

    @property
    def tag(self) -> str:
        return f"{self.clip.name}, weights {self.clip.identity}"

    def __call__(self, pictures: Tensor, shots: Sequence[Shot]) -> Tensor:
        return self.clip.scores(pictures, [shot.prompt for shot in shots]).unsqueeze(1)


@dataclass
class Eyes:
    """All extractors of an evaluation, and the references that have been looked at with them."""

    request: EvalRequest
    device: torch.device
    console: Console
    opened: dict[str, Extractor] = field(default_factory=dict)
    references: dict[tuple[str, str, DataSection | None], FeatureSet] = field(default_factory=dict)
    reader: Reader | None = None

    def of(self, bench: Bench) -> list[Eye]:
        """The extractors that ``bench`` is looked at with, in the order in which they were named, each with what it can tell.

        Everything that can be refused is refused here, before pictures are made: each extractor is shown a blank one.
        """
        measures = self.request.measures
        wanted = tuple(name for name in measures if name in FEATURE_METRICS)
        names = self.request.extractors or default_extractors(bench)
        if self.request.inception_weights is not None and not any(name.startswith("inception") for name in names):
            looking = f"--inception-weights: pictures are looked at by {', '.join(names)}"
            raise UsageError(looking, "leave it out, or add --extractor inception")
        eyes = [self._eye(self._open(name), wanted) for name in names] if wanted or "diversity" in measures else []
        if PATCH in measures:
            eyes.append(self._eye(centre_patches(self._open(names[0])), (PATCH,)))
        absent = [self._lacking(bench, eye) for eye in eyes]
        for name in wanted:
            reasons = [without[name] for eye, without in zip(eyes, absent) if name in eye.metrics and name in without]
            if len(reasons) == len(names) and self.request.asks(name):
                raise UsageError(f"--metrics {name}: {reasons[0]}", "leave it out of --metrics")
            for reason in reasons:
                self.console.say(f"{name} is left out: {reason}")
        return [replace(eye, metrics=tuple(name for name in eye.metrics if name not in without)) for eye, without in zip(eyes, absent)]

    def _lacking(self, bench: Bench, eye: Eye) -> dict[str, str]:
        """Which of the eye's metrics cannot be had, and why."""
        scene = bench.scene
        blank = torch.zeros(1, *scene.shape_of(bench.shots[0]), device=scene.device)
        features = eye.extractor.features(scene.decode(blank))
        there = eye.metrics and reference_of(self.request, bench) != TEACHER
        return lacking(eye.extractor, features, self.reference(bench, eye) if there else None)

    def reader_of(self, bench: Bench) -> Reader | None:
        """CLIP, where the score is asked for; raises UsageError for a student that is told no prompts."""
        if "clip" not in self.request.measures:
            return None
        if not bench.text:
            raise UsageError(f"--metrics clip: {bench.scene.path} is told classes, not texts", "leave it out of --metrics")
        if self.reader is None:
            self.reader = Reader(ClipScore(CLIP if self.request.clip is None else self.request.clip, self.device))
        texts = list(dict.fromkeys(shot.prompt for shot in bench.shots))
        if long := self.reader.clip.long_texts(texts):
            self.console.warn(f"CLIP score: {told_of(long, len(texts))}")
        return self.reader

    def reference(self, bench: Bench, eye: Eye) -> FeatureSet:
        """What ``bench`` is compared with, if it is no teacher; looked at once for all students of the same data."""
        text = reference_of(self.request, bench)
        # A run keeps the name of its preset when --set gave it other data.
        key = (text, eye.tag, bench.preset.data if text == DATA and bench.preset is not None else None)
        if key not in self.references:
            keep = any(name in ONE_BY_ONE for name in eye.metrics)
            self.references[key] = open_reference(text, eye.extractor, self.console, preset=bench.preset, cache=self.request.cache, keep=keep)
        return self.references[key]

    def _open(self, name: str) -> Extractor:
        if name not in self.opened:
            request = self.request
            weights = request.inception_weights if name.startswith("inception") else None
            self.opened[name] = open_extractor(name, self.device, weights, self.console, trust=request.trust_weights, cache=request.cache)
        return self.opened[name]

    def _eye(self, extractor: Extractor, metrics: tuple[str, ...]) -> Eye:
        return Eye(extractor, metrics, f"{extractor.name}, resize {extractor.resize}, weights {extractor.identity}")


def reference_of(request: EvalRequest, bench: Bench) -> str:
    """What was named, or the training data where the preset has pictures as its students make them, or the teacher."""
    if request.reference is not None:
        return request.reference
    preset = bench.preset
    return DATA if preset is not None and preset.data.images is not None and preset.teacher.vae is None else TEACHER


def default_extractors(bench: Bench) -> tuple[str, ...]:
    """Raw pixels of small pictures, and for digits a classifier's features; Inception for all others."""
    facts = bench.scene.student.facts
    if facts.base == f"preset:{DIGITS}":
        return "pixels", "digits-classifier"
    small = torch.Size(bench.scene.shape_of(bench.shots[0])).numel() <= MOST_PIXELS
    return ("pixels",) if small and not facts.vae and not bench.text else ("inception",)


def feature_set(generation: Generation, subject: Subject, eye: Eye, keep: bool) -> FeatureSet:
    """Statistics of a subject's stored features; without ``keep`` only their moments, in constant memory."""
    accumulator, kept = MomentAccumulator(), []
    for features in generation.features(subject, eye.tag):
        accumulator.add(features)
        if keep:
            kept.append(features)
    source = f"{subject.name}, {subject.evaluations} steps, same noise" if subject.kind == TEACHER else subject.title
    together = torch.cat(kept) if keep else None
    return FeatureSet(eye.extractor.name, eye.extractor.resize, source, accumulator.count, accumulator.moments(), together)
