"""A folder of pictures against a reference, without any model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..errors import UsageError
from .distributions import TARGET, Measure, each_is_needed, lacking, measure, too_few
from .extractors import Extractor, centre_patches, open_extractor
from .extractors.features import FeatureSet
from .folders import ImageFolder, open_folder
from .metric_kinds import PATCHES, STUDENT, needing, usual_of_folders
from .references import BATCH, folder_features, open_reference
from .request import QUICK_IMAGES

if TYPE_CHECKING:
    from ..console import Console

# Up to so many pictures saved statistics hold the features of each, for what compares pictures one by one.
MOST_SAVED = 50_000


@dataclass(frozen=True)
class FolderRequest:
    """`piflow eval --images DIR --reference REFERENCE`.

    ``reference``: None to measure nothing and only save. ``metrics``: such as need no student; None is what the
    extractor, the reference and the installed packages allow of those of ``protocol`` (quick, full or None), without
    patches. ``count``: how many pictures to take of each side, the first by name; None is all, of ``images`` as many as
    the protocol takes. ``trust_weights``: run ``inception_weights`` that are not the published ones. ``cache``: as
    :func:`open_reference` has it. ``save_to``: a file for the statistics of ``images``.
    """

    images: Path
    reference: str | None
    extractor: str = "inception"
    metrics: tuple[str, ...] | None = None
    protocol: str | None = None
    count: int | None = None
    batch_size: int = BATCH
    inception_weights: Path | None = None
    trust_weights: bool = False
    cache: Path | None = None
    save_to: Path | None = None


def extractor_of(request: FolderRequest, device: torch.device, console: Console) -> Extractor:
    """The extractor that ``request`` names; raises as :func:`~piflow_cli.evaluation.extractors.open_extractor` does."""
    return open_extractor(
        request.extractor, device, request.inception_weights, console, trust=request.trust_weights, cache=request.cache
    )


def evaluate_folder(
    request: FolderRequest, device: torch.device, console: Console, extractor: Extractor | None = None
) -> list[Measure]:
    """The numbers of a folder of pictures, each with its protocol; cheap inputs are read first.

    ``extractor``: :func:`extractor_of` the request, where it is open already.

    Raises:
        UsageError: whatever is wrong with a folder, the reference or the metrics.
        RunError: weights or packages that are missing, statistics that are damaged.
    """
    known, of_patches = needing(without={STUDENT}), needing(PATCHES)
    unknown = [name for name in request.metrics or () if name not in known]
    if unknown:
        raise UsageError(f"folders of pictures have no metric {unknown[0]}", f"known: {', '.join(known)}")
    most = QUICK_IMAGES if request.protocol == "quick" else None
    folder = open_folder(request.images, request.count, console, most=most)
    if extractor is None:
        extractor = extractor_of(request, device, console)
    wanted = usual_of_folders(request.protocol) if request.metrics is None else request.metrics
    numbers: list[Measure] = []
    if whole := tuple(name for name in wanted if name not in of_patches):
        numbers += _numbers(request, folder, extractor, whole, console)
    if patches := tuple(name for name in wanted if name in of_patches):
        numbers += _numbers(replace(request, save_to=None), folder, centre_patches(extractor), patches, console)
    return numbers


def _numbers(
    request: FolderRequest, folder: ImageFolder, extractor: Extractor, wanted: tuple[str, ...], console: Console
) -> list[Measure]:
    """The numbers of ``folder`` by ``extractor``; its statistics are saved on the way."""
    reference, metrics = None, ()
    if request.reference is not None:
        _possible(request, wanted, too_few(len(folder.entries), None))
        reference = open_reference(
            request.reference, extractor, console, count=request.count, batch_size=request.batch_size,
            cache=request.cache,
            keep=each_is_needed(wanted),
        )  # fmt: skip
        metrics = _possible(request, wanted, _reasons(folder, extractor, reference), console)
    # A distance of many pictures needs their moments alone, and memory that does not grow with them.
    keep = each_is_needed(metrics) or len(folder.entries) < TARGET
    saved = request.save_to is not None and len(folder.entries) <= MOST_SAVED
    ours = folder_features(folder, extractor, console, request.batch_size, keep or saved)
    if request.save_to is not None:
        if not saved:
            console.warn(
                f"{request.save_to} holds mean and covariance alone, as of all folders above {MOST_SAVED:,} pictures:"
                " enough for fid"
            )
        (ours if saved else replace(ours, features=None)).save(request.save_to)
    return [] if reference is None else measure(metrics, ours, reference, extractor)


def _reasons(folder: ImageFolder, extractor: Extractor, reference: FeatureSet) -> dict[str, str]:
    """Why metrics cannot be had."""
    width, height = folder.entries[0].size
    blank = torch.zeros(1, folder.channels, height, width)
    return lacking(extractor, extractor.features(blank), len(folder.entries), reference)


def _possible(
    request: FolderRequest, wanted: tuple[str, ...], reasons: Mapping[str, str], console: Console | None = None
) -> tuple[str, ...]:
    """Those of ``wanted`` that can be had; ``console`` is told of the others, and those that were named are refused."""
    for name in wanted:
        if name in reasons and request.metrics is not None:
            raise UsageError(f"--metrics {name}: {reasons[name]}", "leave it out of --metrics")
        if name in reasons and console is not None:
            console.say(f"{name} is left out: {reasons[name]}")
    return tuple(name for name in wanted if name not in reasons)
