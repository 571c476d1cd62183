"""From two sets of features to numbers, each with the protocol it was made by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from ..errors import UsageError
from .features import FeatureSet, refuse_mixing
from .intervals import GROUPS, TARGET, Interval, frechet_interval
from .scores import inception_score, kernel_distance, precision_recall
from .statistics import frechet_distance

if TYPE_CHECKING:
    from .extractors import Extractor

COLUMNS = ("metric", "value", "low", "high", "images", "reference_images", "extractor", "resize", "reference")


@dataclass(frozen=True)
class Measure:
    """One number with its protocol.

    ``low`` and ``high``: a FID of fewer than 10,000 images has the interval in which the value at 10,000 lies (95 %).
    ``reference_images`` None: the reference does not tell. ``reference`` None: the metric takes none. ``note``: what a reader
    should know of the number.
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


def measure(metrics: Sequence[str], ours: FeatureSet, reference: FeatureSet, extractor: Extractor) -> list[Measure]:
    """The numbers of ``metrics``, of FEATURE_METRICS, for samples ``ours`` against ``reference``; ``pr`` gives two.

    Raises:
        UsageError: another metric, features of other extractors or resize modes, or a metric needs what is not there.
        RunError: clean-fid is not installed.
    """
    refuse_mixing(ours, reference)
    unknown = [name for name in metrics if name not in FEATURE_METRICS]
    if unknown:
        raise UsageError(f"there is no metric {unknown[0]}", f"known: {', '.join(FEATURE_METRICS)}")
    return [number for name in metrics for number in FEATURE_METRICS[name](ours, reference, extractor)]


def _protocol(ours: FeatureSet, reference: FeatureSet | None) -> Measure:
    """A measure without its number."""
    against = (None, None) if reference is None else (reference.source, reference.count or None)
    return Measure("", 0.0, ours.count, ours.extractor, ours.resize, *against)


def _fid(ours: FeatureSet, reference: FeatureSet, extractor: Extractor) -> list[Measure]:
    number = replace(_protocol(ours, reference), metric="fid", value=frechet_distance(ours.moments, reference.moments))
    if ours.features is None or not 2 * GROUPS <= ours.count < TARGET:
        return [number]
    interval = frechet_interval(ours.features, reference.moments)
    return [replace(number, low=interval.low, high=interval.high, note=_note(interval))]


def _note(interval: Interval) -> str:
    text = f"at {interval.at:,} images about {interval.estimate:.4g}"
    return text if interval.trusted else f"{text}; fewer images than features, so rather less"


def _kid(ours: FeatureSet, reference: FeatureSet, extractor: Extractor) -> list[Measure]:
    value = kernel_distance(ours.need_features("KID"), reference.need_features("KID"))
    return [replace(_protocol(ours, reference), metric="kid", value=value)]


def _is(ours: FeatureSet, reference: FeatureSet, extractor: Extractor) -> list[Measure]:
    logits = extractor.logits(ours.need_features("the Inception score"))
    if logits is None:
        raise UsageError(f"{extractor.name} has no classes, and the Inception score is about them", "leave is out of --metrics")
    return [replace(_protocol(ours, None), metric="is", value=inception_score(logits))]


def _precision_recall(ours: FeatureSet, reference: FeatureSet, extractor: Extractor) -> list[Measure]:
    what = "precision and recall"
    values = precision_recall(ours.need_features(what), reference.need_features(what))
    return [replace(_protocol(ours, reference), metric=name, value=value) for name, value in values._asdict().items()]


FEATURE_METRICS: dict[str, Callable[[FeatureSet, FeatureSet, Extractor], list[Measure]]] = {
    "fid": _fid,
    "kid": _kid,
    "is": _is,
    "pr": _precision_recall,
}
