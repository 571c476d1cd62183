"""Features of a set of pictures with their protocol, and their files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...core.tensors import all_finite
from ...errors import RunError, UsageError
from ...weights.cache import as_bytes, as_text
from ...weights.sealed import read_sealed, save_sealed
from ...weights.stored import opened_tensors
from . import Extractor
from .base import INCEPTION, RESIZE_TENSORFLOW
from .moments import MomentAccumulator, Moments, check_moments, check_shapes

if TYPE_CHECKING:
    from ...console import Console

FORMAT = "piflow-statistics"
FACTS = ("extractor", "resize", "source")


@dataclass(frozen=True)
class FeatureSet:
    """Statistics of ``count`` pictures of ``source``, with the names of the extractor and the resize mode.

    ``features`` (N, D) float32, in the order of the pictures; None where only the moments were kept. ``count`` is 0
    where a file of statistics does not tell it. ``warnings``: those given while features were extracted, such as the
    names of damaged ones that were left out.
    """

    extractor: str
    resize: str
    source: str
    count: int
    moments: Moments
    features: Tensor | None = None
    warnings: tuple[str, ...] = ()

    def tell(self, console: Console) -> None:
        """Repeat the warnings that were given when the features were extracted."""
        for line in self.warnings:
            console.warn(line)

    @property
    def dimension(self) -> int:
        """D, the number of features of one picture."""
        return self.moments.mean.shape[0]

    def need_features(self, metric: str) -> Tensor:
        """``features``; raises UsageError, naming ``metric``, where they were not kept."""
        if self.features is None:
            raise UsageError(
                f"{metric} compares pictures one by one, and {self.source} holds their mean and covariance alone",
                "name a folder of pictures, or leave it out of --metrics",
            )
        return self.features

    def save(self, path: Path) -> None:
        """Write a safetensors file: float64 mean and covariance, kept features, all names, and a digest."""
        save_sealed(self._tensors, path, {"format": FORMAT, **self._facts})

    def entry(self) -> dict[str, Tensor]:
        """All of it as tensors, for a cache."""
        return {**self._tensors, "facts": as_bytes(json.dumps(self._facts))}

    @classmethod
    def of_entry(cls, entry: Mapping[str, Tensor]) -> FeatureSet:
        """The statistics of which :meth:`entry` was made."""
        facts = json.loads(as_text(entry["facts"]))
        facts |= {"count": int(facts["count"]), "warnings": tuple(json.loads(facts["warnings"]))}
        return cls(**facts, moments=Moments(entry["mean"], entry["covariance"]), features=entry.get("features"))

    @property
    def _tensors(self) -> dict[str, Tensor]:
        kept = {} if self.features is None else {"features": self.features}
        return {"mean": self.moments.mean, "covariance": self.moments.covariance, **kept}

    @property
    def _facts(self) -> dict[str, str]:
        named = {name: str(getattr(self, name)) for name in FACTS}
        return {"count": str(self.count), "warnings": json.dumps(self.warnings), **named}


class FeatureCollector:
    """Gathers features of pictures batch by batch; without ``keep`` only their moments, in constant memory."""

    def __init__(self, extractor: Extractor, source: str, keep: bool = True) -> None:
        self.extractor, self.source, self.keep = extractor, source, keep
        self.accumulator = MomentAccumulator()
        self._kept: list[Tensor] = []
        self._width: int | None = None

    def add(self, images: Tensor) -> Tensor:
        """Take in pictures (B, 1 or 3, H, W) with values around [-1, 1]; returns their features (B, D)."""
        features = self.extractor.features(images)
        if self._width is not None and features.shape[1] != self._width:
            raise UsageError(
                f"{self.source}: pictures of several sizes give {self._width} and {features.shape[1]} features by"
                f" {self.extractor.name}",
                "choose an extractor that resizes: --extractor inception",
            )
        self._width = features.shape[1]
        self.accumulator.add(features)
        if self.keep:
            self._kept.append(features)
        return features

    def finish(self) -> FeatureSet:
        """The statistics of everything so far; raises RunError below two pictures."""
        kept = torch.cat(self._kept) if self.keep and self._kept else None
        moments = self.accumulator.moments()
        return FeatureSet(
            self.extractor.name, self.extractor.resize, self.source, self.accumulator.count, moments, kept
        )


def are_statistics(path: Path) -> bool:
    """Whether :meth:`FeatureSet.save` wrote the file; its header alone is read."""
    try:
        with opened_tensors(path) as tensors:
            return (tensors.metadata() or {}).get("format") == FORMAT
    except (RunError, OSError):
        return False


def load_features(path: Path) -> FeatureSet:
    """The statistics that :meth:`FeatureSet.save` wrote.

    Raises:
        UsageError: there is no such file, or it is another kind of safetensors file.
        RunError: it is corrupt, cut short, or holds values that are not finite.
    """
    if not path.is_file():
        raise UsageError(f"there are no statistics at {path}", "name a folder of pictures or a file of statistics")
    metadata, tensors, sealed = read_sealed(path)
    if metadata.get("format") != FORMAT:
        raise UsageError(f"{path} holds no statistics of features", "name a folder of pictures or a file of statistics")
    try:
        facts = {name: metadata[name] for name in FACTS}
        # Files of piflow 0.1 carry neither warnings nor a digest.
        warnings = tuple(map(str, json.loads(metadata.get("warnings", "[]"))))
        count, moments, features = (
            int(metadata["count"]),
            Moments(tensors["mean"], tensors["covariance"]),
            tensors.get("features"),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise UsageError(
            f"{path} holds no statistics of features: {error} is missing or wrong", "make them again"
        ) from error
    check_shapes(moments.mean.shape, moments.covariance.shape, str(path))
    if features is not None and features.shape != (count, len(moments.mean)):
        raise UsageError(
            f"{path}: features {tuple(features.shape)} are not {count} of {len(moments.mean)}",
            "make the statistics again",
        )
    if not all(value.is_floating_point() and all_finite(value) for value in tensors.values()):
        raise RunError(f"{path} has values that are not finite", "make the statistics again")
    if not sealed:
        check_moments(moments, str(path))
    return FeatureSet(**facts, count=count, moments=moments, features=features, warnings=warnings)


def refuse_mixing(ours: FeatureSet | Extractor, reference: FeatureSet) -> None:
    """Raise UsageError, naming both, where the extractors, resize modes or lengths of features differ."""
    known = isinstance(ours, FeatureSet)
    if known and ours.extractor == reference.extractor:
        refuse_length(ours.source, ours.extractor, ours.dimension, reference)
    name = ours.extractor if known else ours.name
    if (name, ours.resize) != (reference.extractor, reference.resize):
        raise UsageError(
            f"{reference.source} was made with {reference.extractor} (resize: {reference.resize}), "
            f"and the pictures are seen by {name} (resize: {ours.resize})",
            f"choose the reference's own: --extractor {_typed(reference)}; or name the reference's pictures, a folder",
        )


def _typed(reference: FeatureSet) -> str:
    """The extractor of ``reference`` as it is typed; that of Inception goes by the way in which it resizes."""
    if reference.extractor != INCEPTION:
        return reference.extractor
    return "inception-tf" if reference.resize == RESIZE_TENSORFLOW else "inception"


def refuse_length(source: str, extractor: str, dimension: int, reference: FeatureSet) -> None:
    """Raise UsageError where features of length ``dimension`` are not as long as the reference's."""
    if dimension != reference.dimension:
        raise UsageError(
            f"{source} has {dimension} features a picture by {extractor}, and {reference.source} {reference.dimension}",
            "compare pictures of one size, all grey or all coloured; or choose an extractor that resizes",
        )
