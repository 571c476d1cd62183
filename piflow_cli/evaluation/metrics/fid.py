"""The Frechet distance of features (FID), with the interval of few pictures; patch FID is that of their middles."""

from __future__ import annotations

from dataclasses import replace

from ..distributions import TARGET, Measure, Sides
from .frechet import frechet_distance
from .frechet_interval import GROUPS, enough_samples, frechet_interval


def fid(sides: Sides) -> list[Measure]:
    ours, reference = sides.ours, sides.reference
    number = sides.number("fid", frechet_distance(ours.moments, reference.moments))
    if ours.features is None or not GROUPS <= ours.count < TARGET:
        return [number]
    # Asked first: without enough images the interval would take minutes of 2,048 features, and be worth nothing.
    enough = enough_samples(reference.moments)
    if ours.count < enough:
        return [replace(number, note=f"biased upwards: an error bar takes {enough:,} images")]
    theirs = reference.need_features("its error bar") if sides.same_noise else reference.moments
    interval = frechet_interval(ours.features, theirs)
    note = f"at {interval.at:,} images about {interval.estimate:.4g}"
    return [replace(number, low=interval.low, high=interval.high, note=note)]


def patch_fid(sides: Sides) -> list[Measure]:
    return [replace(number, metric="patch-fid") for number in fid(sides)]
