"""From two sets of features to numbers, each with its protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from torch import Tensor

from ..errors import UsageError
from ..packages import object_at
from .extractors.features import FeatureSet, refuse_length, refuse_mixing
from .metric_kinds import CLASSES, EACH, REFERENCE, STUDENT, metric_kind, metric_names, needing

if TYPE_CHECKING:
    from .extractors import Extractor

# A distance of fewer pictures than these has an interval, in which the value at so many lies, made from the features of
# each.
TARGET = 10_000


@dataclass(frozen=True)
class Measure:
    """One number with its protocol.

    ``low`` and ``high``: a FID of fewer than 10,000 images has the interval in which the value at 10,000 lies (95 %),
    unless they are too few even for that, and its ``estimate`` ``at`` that number. ``reference_images`` None: the
    reference does not tell. ``reference`` None: the metric takes none. ``note``: what a reader should know of it.
    """

    metric: str
    value: float
    images: int
    extractor: str
    resize: str
    reference: str | None
    reference_images: int | None
    low: float | None = None
    high: float | None = None
    estimate: float | None = None
    at: int | None = None
    note: str | None = None


def measure(
    metrics: Sequence[str], ours: FeatureSet, reference: FeatureSet, extractor: Extractor, *, same_noise: bool = False
) -> list[Measure]:
    """The numbers of ``metrics``, such as need no student, for samples ``ours`` against ``reference``.

    Args:
        same_noise: picture by picture both are of the same noise and conditions, as a student's and its teacher's are;
            the error bar of the FID has to know (``frechet_interval``).

    Raises:
        UsageError: another metric, features of other extractors or resize modes, or a metric needs what is not there.
        RunError: clean-fid is not installed.
    """
    refuse_mixing(ours, reference)
    known = needing(without={STUDENT})
    unknown = [name for name in metrics if name not in known]
    if unknown:
        raise UsageError(f"there is no metric {unknown[0]}", f"known: {', '.join(known)}")
    sides = Sides(ours, reference, extractor, same_noise)
    return [number for name in metrics for number in object_at(metric_kind(name).measure)(sides)]


def each_is_needed(metrics: Sequence[str]) -> bool:
    """Whether any of ``metrics`` takes the features of every picture, beyond their mean and covariance."""
    return any(EACH in metric_kind(name).needs for name in metrics)


def lacking(extractor: Extractor, features: Tensor, count: int, reference: FeatureSet | None) -> dict[str, str]:
    """The metrics that cannot be had, and the reasons.

    Args:
        features: of any picture by ``extractor``, (1, D).
        count: how many pictures are measured.
        reference: None where it is yet to be generated, with the features of every picture.

    Raises UsageError for a ``reference`` of pictures of another number of features.
    """
    if reference is not None:
        refuse_length("what is measured", extractor.name, features.shape[1], reference)
    packages = {name: metric_kind(name).package for name in metric_names()}
    reasons = too_few(count, reference) | {
        name: f"it needs {package[1]}"
        for name, package in packages.items()
        if package is not None and find_spec(package[0]) is None
    }
    if extractor.logits(features) is None:
        reasons |= dict.fromkeys(needing(CLASSES), f"{extractor.name} has no classes")
    if reference is not None and reference.features is None:
        single = f"{reference.source} holds mean and covariance alone, and pictures are compared one by one"
        reasons |= dict.fromkeys(needing(REFERENCE, EACH), single)
    return reasons


def too_few(count: int, reference: FeatureSet | None) -> dict[str, str]:
    """The metrics that take more pictures than ``count``, or than a reference has whose pictures are compared."""
    kept = None if reference is None or reference.features is None else len(reference.features)
    few = {}
    for kind in map(metric_kind, needing(without={STUDENT})):
        takes = f"it takes {kind.fewest} pictures, and "
        if count < kind.fewest:
            few[kind.name] = takes + ("there is one" if count == 1 else f"there are {count}")
        elif REFERENCE in kind.needs and reference is not None and kept is not None and kept < kind.fewest:
            few[kind.name] = f"{takes}{reference.source} has {kept}"
    return few


@dataclass(frozen=True)
class Sides:
    """The two sides of a comparison; ``same_noise``: picture by picture they are from the same noise."""

    ours: FeatureSet
    reference: FeatureSet
    extractor: Extractor
    same_noise: bool

    def number(self, metric: str, value: float, referred: bool = True) -> Measure:
        """A measure with the protocol of both sides, or of ours alone where it is not ``referred`` to the other."""
        ours, reference = self.ours, self.reference
        against = (reference.source, reference.count or None) if referred else (None, None)
        return Measure(metric, value, ours.count, ours.extractor, ours.resize, *against)

    def features(self, metric: str) -> tuple[Tensor, Tensor]:
        """Features (N, D) and (M, D); raises UsageError, naming ``metric``, where only moments were kept."""
        return self.ours.need_features(metric), self.reference.need_features(metric)


def need_pictures(count: int, what: str, *sides: Tensor) -> None:
    """Raise UsageError where a side has fewer than ``count``; ``what`` needs them."""
    fewest = min(len(side) for side in sides)
    if fewest < count:
        raise UsageError(f"{what}: at least {count} pictures are needed, and there are {fewest}", "give more pictures")
