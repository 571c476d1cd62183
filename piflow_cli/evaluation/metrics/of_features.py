"""From two sets of features to numbers, each with the protocol it was made by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from torch import Tensor

from ...errors import UsageError
from ..extractors.features import FeatureSet, refuse_length, refuse_mixing
from .frechet import frechet_distance
from .frechet_interval import GROUPS, TARGET, enough_samples, frechet_interval
from .scores import inception_score, kernel_distance, precision_recall

if TYPE_CHECKING:
    from ..extractors import Extractor

# What takes the features of the reference besides its moments.
ONE_BY_ONE = ("kid", "pr")
COLUMNS = ("metric", "value", "low", "high", "images", "reference_images", "extractor", "resize", "reference")


@dataclass(frozen=True)
class Measure:
    """One number with its protocol.

    ``low`` and ``high``: a FID of fewer than 10,000 images has the interval in which the value at 10,000 lies (95 %),
    unless they are too few even for that. ``reference_images`` None: the reference does not tell. ``reference`` None:
    the metric takes none. ``note``: what a reader should know of the number.
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
    note: str | None = None

    def row(self) -> dict[str, object]:
        """For the table (COLUMNS) and for JSON."""
        return asdict(self)


def measure(
    metrics: Sequence[str], ours: FeatureSet, reference: FeatureSet, extractor: Extractor, *, same_noise: bool = False
) -> list[Measure]:
    """The numbers of ``metrics``, of FEATURE_METRICS, for samples ``ours`` against ``reference``; ``pr`` gives two.

    Args:
        same_noise: picture by picture both are of the same noise and conditions,
        as a student's and its teacher's are; the
            error bar of the FID has to know (``frechet_interval``).

    Raises:
        UsageError: another metric, features of other extractors or resize modes, or a metric needs what is not there.
        RunError: clean-fid is not installed.
    """
    refuse_mixing(ours, reference)
    unknown = [name for name in metrics if name not in FEATURE_METRICS]
    if unknown:
        raise UsageError(f"there is no metric {unknown[0]}", f"known: {', '.join(FEATURE_METRICS)}")
    sides = Sides(ours, reference, extractor, same_noise)
    return [number for name in metrics for number in FEATURE_METRICS[name](sides)]


def lacking(extractor: Extractor, features: Tensor, reference: FeatureSet | None) -> dict[str, str]:
    """Which of FEATURE_METRICS cannot be had, and why.

    Args:
        features: of any picture by ``extractor``, (1, D).
        reference: None where it is yet to be generated, with the features of every picture.

    Raises UsageError for a ``reference`` of pictures of another number of features.
    """
    if reference is not None:
        refuse_length("what is measured", extractor.name, features.shape[1], reference)
    reasons = {}
    if find_spec("cleanfid") is None:
        reasons["kid"] = 'it needs pip install "piflow[eval]"'
    if extractor.logits(features) is None:
        reasons["is"] = f"{extractor.name} has no classes"
    if reference is not None and reference.features is None:
        single = f"{reference.source} holds mean and covariance alone, and pictures are compared one by one"
        reasons |= dict.fromkeys(ONE_BY_ONE, single)
    return reasons


@dataclass(frozen=True)
class Sides:
    """What is compared, and whether picture by picture it is of the same noise."""

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


def _fid(sides: Sides) -> list[Measure]:
    ours, reference = sides.ours, sides.reference
    number = sides.number("fid", frechet_distance(ours.moments, reference.moments))
    if ours.features is None or not GROUPS <= ours.count < TARGET:
        return [number]
    # Asked first: without enough images the interval would take minutes of 2,048 features, and be worth nothing.
    enough = enough_samples(reference.moments)
    if ours.count < enough:
        return [replace(number, note=f"biased upwards: an error bar takes {enough:,} images")]
    interval = frechet_interval(
        ours.features, reference.need_features("its error bar") if sides.same_noise else reference.moments
    )
    return [
        replace(
            number,
            low=interval.low,
            high=interval.high,
            note=f"at {interval.at:,} images about {interval.estimate:.4g}",
        )
    ]


def _kid(sides: Sides) -> list[Measure]:
    return [sides.number("kid", kernel_distance(*sides.features("KID")))]


def _is(sides: Sides) -> list[Measure]:
    extractor = sides.extractor
    logits = extractor.logits(sides.ours.need_features("the Inception score"))
    if logits is None:
        raise UsageError(
            f"{extractor.name} has no classes, and the Inception score is about them", "leave it out of --metrics"
        )
    return [sides.number("is", inception_score(logits), referred=False)]


def _precision_recall(sides: Sides) -> list[Measure]:
    found = precision_recall(*sides.features("precision and recall"))
    return [sides.number(name, value) for name, value in found._asdict().items()]


FEATURE_METRICS: dict[str, Callable[[Sides], list[Measure]]] = {
    "fid": _fid,
    "kid": _kid,
    "is": _is,
    "pr": _precision_recall,
}
