"""The extractors of an evaluation, opened once for all students, and the references made by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import UsageError
from ..packages import object_at
from ..sampling.request import ImageSpec
from .candidates import Candidate
from .compared import Compared
from .distributions import each_is_needed, lacking
from .extractor_kinds import extractor_kind
from .extractors import Extractor, centre_patches, open_extractor
from .extractors.features import FeatureSet
from .extractors.moments import MomentAccumulator
from .frames import OverFrames
from .generate import Generation, MetricExtractor
from .metric_kinds import FEATURES, PATCHES, PROMPTS, STUDENT, metric_kind, needing
from .reference_kinds import DATA, TEACHER
from .references import open_reference
from .request import EvalRequest

if TYPE_CHECKING:
    from ..console import Console
    from ..presets.schema import DataSection

DIGITS = "digits"
# Above this a number of small pictures is no longer worth comparing pixel by pixel.
MOST_PIXELS = 4096


@dataclass(frozen=True)
class ChosenExtractor:
    """An extractor and the metrics that it is asked for; ``tag`` identifies it and its weights."""

    extractor: Extractor
    metrics: tuple[str, ...]
    tag: str

    def __call__(self, pictures: Tensor, specs: Sequence[ImageSpec]) -> Tensor:
        return self.extractor.features(pictures).float()


@dataclass
class ChosenExtractors:
    """All extractors of an evaluation, and the references whose features they have extracted."""

    request: EvalRequest
    device: torch.device
    console: Console
    by_name: dict[str, Extractor] = field(default_factory=dict)
    references: dict[tuple[str, str, DataSection | None], FeatureSet] = field(default_factory=dict)
    metric_extractors: dict[str, MetricExtractor] = field(default_factory=dict)

    def of(self, compared: Compared) -> list[ChosenExtractor]:
        """The extractors for ``compared``, in the order in which they were named, each with the metrics it can give.

        Everything that can be refused is refused here, before pictures are made: each extractor is shown a blank one.
        """
        measures = self.request.measures
        whole = needing(without={STUDENT, PATCHES})
        wanted = tuple(name for name in measures if name in whole)
        patches = tuple(name for name in measures if name in needing(PATCHES))
        names = self.request.extractors or default_extractors(compared)
        if self.request.inception_weights is not None and not any(extractor_kind(name).takes_weights for name in names):
            what = f"--inception-weights: the extractor is {', '.join(names)}"
            raise UsageError(what, "leave it out, or add --extractor inception")
        extracted = wanted or any(name in needing(STUDENT, FEATURES) for name in measures)
        opened = [(self._open(name), wanted) for name in names] if extracted else []
        if patches:
            opened.append((centre_patches(self._open(names[0])), patches))
        extractors = [
            self._chosen(inner if compared.frames is None else OverFrames(inner), metrics) for inner, metrics in opened
        ]
        absent = [self._lacking(compared, chosen) for chosen in extractors]
        for name in (*wanted, *patches):
            seen = [without for chosen, without in zip(extractors, absent) if name in chosen.metrics]
            reasons = [without[name] for without in seen if name in without]
            if len(reasons) == len(seen) and self.request.asks(name):
                raise UsageError(f"--metrics {name}: {reasons[0]}", "leave it out of --metrics")
            for reason in reasons:
                self.console.say(f"{name} is left out: {reason}")
        return [
            replace(chosen, metrics=tuple(name for name in chosen.metrics if name not in without))
            for chosen, without in zip(extractors, absent)
        ]

    def _lacking(self, compared: Compared, chosen: ChosenExtractor) -> dict[str, str]:
        """Which metrics of the extractor cannot be had, and why."""
        opened = compared.opened
        blank = torch.zeros(1, *opened.shape_of(compared.specs[0]), device=opened.device)
        features = chosen.extractor.features(opened.decode(blank))
        there = chosen.metrics and reference_of(self.request, compared) != TEACHER
        reference = self.reference(compared, chosen) if there else None
        return lacking(chosen.extractor, features, len(compared.specs), reference)

    def metric_extractors_of(self, compared: Compared) -> dict[str, MetricExtractor]:
        """The extractors of one metric alone, by its name.

        Raises UsageError where the metric needs prompts and the student is told none.
        """
        for kind in map(metric_kind, self.request.measures):
            if kind.extractor is None:
                continue
            if PROMPTS in kind.needs and not compared.text:
                raise UsageError(
                    f"--metrics {kind.name}: {compared.opened.found.named} is told classes, not texts",
                    "leave it out of --metrics",
                )
            if kind.name not in self.metric_extractors:
                self.metric_extractors[kind.name] = object_at(kind.extractor)(self.request, self.device)
            self.metric_extractors[kind.name].warn(compared.specs, self.console)
        return self.metric_extractors

    def reference(self, compared: Compared, chosen: ChosenExtractor) -> FeatureSet:
        """What ``compared`` is measured against, if that is no teacher; read once for all students of the same data."""
        text = reference_of(self.request, compared)
        # A run keeps the name of its preset when --set gave it other data.
        key = (text, chosen.tag, compared.preset.data if text == DATA and compared.preset is not None else None)
        if key not in self.references:
            keep = each_is_needed(chosen.metrics)
            self.references[key] = open_reference(
                text, chosen.extractor, self.console, preset=compared.preset, cache=self.request.cache, keep=keep
            )
        return self.references[key]

    def _open(self, name: str) -> Extractor:
        if name not in self.by_name:
            request = self.request
            weights = request.inception_weights if extractor_kind(name).takes_weights else None
            self.by_name[name] = open_extractor(
                name, self.device, weights, self.console, trust=request.trust_weights, cache=request.cache
            )
        return self.by_name[name]

    def _chosen(self, extractor: Extractor, metrics: tuple[str, ...]) -> ChosenExtractor:
        return ChosenExtractor(
            extractor, metrics, f"{extractor.name}, resize {extractor.resize}, weights {extractor.identity}"
        )


def reference_of(request: EvalRequest, compared: Compared) -> str:
    """The named reference; else the training data where they are pictures as students make them, or the teacher."""
    if request.reference is not None:
        return request.reference
    preset = compared.preset
    return DATA if preset is not None and preset.data.images is not None and preset.teacher.vae is None else TEACHER


def default_extractors(compared: Compared) -> tuple[str, ...]:
    """Raw pixels of small pictures, and for digits a classifier's features; Inception for all others."""
    facts = compared.opened.student.facts
    if facts.base == f"preset:{DIGITS}":
        return "pixels", "digits-classifier"
    small = torch.Size(compared.opened.shape_of(compared.specs[0])).numel() <= MOST_PIXELS
    return ("pixels",) if small and not facts.vae and not compared.text else ("inception",)


def feature_set(generation: Generation, candidate: Candidate, chosen: ChosenExtractor, keep: bool) -> FeatureSet:
    """Statistics of a candidate's stored features; without ``keep`` only their moments, in constant memory."""
    accumulator, kept = MomentAccumulator(), []
    for features in generation.features(candidate, chosen.tag):
        accumulator.add(features)
        if keep:
            kept.append(features)
    source = (
        f"{candidate.name}, {candidate.evaluations} steps, same noise" if candidate.kind == TEACHER else candidate.title
    )
    together = torch.cat(kept) if keep else None
    return FeatureSet(
        chosen.extractor.name, chosen.extractor.resize, source, accumulator.count, accumulator.moments(), together
    )
