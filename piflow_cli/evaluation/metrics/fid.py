"""The Frechet distance of features (FID), with the interval of few pictures; patch FID is that of their middles."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..distributions import TARGET, Measure, Sides
from ..extractors.features import FeatureSet
from .frechet import frechet_distance, frechet_distance_of_samples
from .frechet_interval import GROUPS, enough_samples, frechet_interval

MANY = 4096  # features; raw pixels of 64 x 64 are 12,288


def fid(sides: Sides) -> list[Measure]:
    ours, reference = sides.ours, sides.reference
    number = sides.number("fid", _distance(ours, reference))
    if ours.features is None or not GROUPS <= ours.count < TARGET:
        return [number]
    # Asked first: without enough images the interval would take minutes of 2,048 features, and be worth nothing.
    few = _few(reference)
    enough = enough_samples(reference.moments if few is None else few)
    if ours.count < enough:
        return [replace(number, note=f"biased upwards: an error bar takes {enough:,} images")]
    theirs = reference.need_features("its error bar") if sides.same_noise else reference.moments
    interval = frechet_interval(ours.features, theirs)
    return [replace(number, low=interval.low, high=interval.high, estimate=interval.estimate, at=interval.at)]


def _distance(ours: FeatureSet, reference: FeatureSet) -> float:
    if (one := _few(ours)) is not None and (other := _few(reference)) is not None:
        return frechet_distance_of_samples(one, other)
    return frechet_distance(ours.moments, reference.moments)


def _few(side: FeatureSet) -> Tensor | None:
    """The features (N, D) of a side that has less than D of them, where moments of so many would take minutes.

    Otherwise they are the same whether features were kept or not, to the last bit.
    """
    return side.features if side.count < side.dimension and side.dimension > MANY else None


def patch_fid(sides: Sides) -> list[Measure]:
    return [replace(number, metric="patch-fid") for number in fid(sides)]
