"""From two sets of features to numbers, each with the protocol it was made by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from .features import FeatureSet, refuse_mixing

if TYPE_CHECKING:
    from .extractors import Extractor

FEATURE_METRICS = ("fid", "kid", "is", "pr")
COLUMNS = ("metric", "value", "low", "high", "images", "reference_images", "extractor", "resize", "reference")


@dataclass(frozen=True)
class Measure:
    """One number with its protocol. ``low`` and ``high``: 95 % interval of the value at 10,000 images, for a FID of fewer;
    ``note`` is what a reader should know of it. ``reference_images`` None: the reference does not tell."""

    metric: str
    value: float
    images: int
    reference_images: int | None
    extractor: str
    resize: str
    reference: str
    low: float | None = None
    high: float | None = None
    note: str | None = None

    def row(self) -> dict[str, object]:
        return asdict(self)


def measure(metrics: Sequence[str], ours: FeatureSet, reference: FeatureSet, extractor: Extractor) -> list[Measure]:
    """The numbers of ``metrics`` (of FEATURE_METRICS; ``pr`` gives two) for samples ``ours`` against ``reference``.

    Raises:
        UsageError: the two were made with other extractors or resize modes, or a metric needs what they lack.
    """
    refuse_mixing(ours, reference)
    raise NotImplementedError
