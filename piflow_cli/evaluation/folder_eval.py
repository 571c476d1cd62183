"""A folder of pictures against a reference, without any model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from .extractors import Extractor, centre_patches, open_extractor
from .features import FeatureSet
from .folders import open_folder
from .intervals import TARGET
from .measures import FEATURE_METRICS, Measure, measure
from .references import BATCH, folder_features, open_reference

if TYPE_CHECKING:
    import torch

    from ..console import Console

PATCH_FID = "patch-fid"
FOLDER_METRICS = (*FEATURE_METRICS, PATCH_FID)


@dataclass(frozen=True)
class FolderRequest:
    """`piflow eval --images DIR --reference REFERENCE`.

    ``metrics``: of FOLDER_METRICS; None is what the extractor, the reference and the installed packages allow, without
    patches. ``count``: how many pictures to take of each side, the first by name; None is all. ``cache``: as :func:`open_reference` has it.
    """

    images: Path
    reference: str
    extractor: str = "inception"
    metrics: tuple[str, ...] | None = None
    count: int | None = None
    batch_size: int = BATCH
    inception_weights: Path | None = None
    cache: Path | None = None


def evaluate_folder(request: FolderRequest, device: torch.device, console: Console) -> list[Measure]:
    """The numbers of a folder of pictures, each with its protocol; what is cheap to look at is looked at first.

    Raises:
        UsageError: whatever is wrong with a folder, the reference or the metrics.
        RunError: weights or packages that are missing, statistics that are damaged.
    """
    unknown = [name for name in request.metrics or () if name not in FOLDER_METRICS]
    if unknown:
        raise UsageError(f"folders of pictures have no metric {unknown[0]}", f"known: {', '.join(FOLDER_METRICS)}")
    folder = open_folder(request.images, request.count, console)
    extractor = open_extractor(request.extractor, device, request.inception_weights, console)

    wanted = request.metrics
    # A distance of many pictures needs their moments alone, and memory that does not grow with them.
    keep = wanted is None or bool(set(wanted) - {"fid", PATCH_FID}) or len(folder.entries) < TARGET

    def both(seen_by: Extractor) -> tuple[FeatureSet, FeatureSet]:
        reference = open_reference(request.reference, seen_by, console, count=request.count, batch_size=request.batch_size, cache=request.cache)
        return folder_features(folder, seen_by, console, request.batch_size, keep), reference

    numbers: list[Measure] = []
    if wanted is None or set(wanted) - {PATCH_FID}:
        ours, reference = both(extractor)
        metrics = possible_metrics(ours, reference, extractor, console) if wanted is None else [name for name in wanted if name != PATCH_FID]
        numbers += measure(metrics, ours, reference, extractor)
    if wanted is not None and PATCH_FID in wanted:
        patches = centre_patches(extractor)
        numbers += [replace(number, metric=PATCH_FID) for number in measure(["fid"], *both(patches), patches)]
    return numbers


def possible_metrics(ours: FeatureSet, reference: FeatureSet, extractor: Extractor, console: Console) -> list[str]:
    """The metrics that these features, this extractor and the installed packages allow; ``console`` is told why others are left out."""
    reasons = {}
    if reference.features is None:
        reasons["kid"] = reasons["pr"] = f"{reference.source} holds only a mean and a covariance"
    elif find_spec("cleanfid") is None:
        reasons["kid"] = 'it needs pip install "piflow[eval]"'
    if extractor.logits(ours.need_features("the Inception score")[:1]) is None:
        reasons["is"] = f"{extractor.name} has no classes"
    for name, reason in reasons.items():
        console.say(f"{name} is left out: {reason}")
    return [name for name in FEATURE_METRICS if name not in reasons]
