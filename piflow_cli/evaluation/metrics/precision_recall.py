"""Precision and recall of features (pr)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..distributions import Measure, Sides, need_pictures


def precision_and_recall(sides: Sides) -> list[Measure]:
    found = precision_recall(*sides.features("precision and recall"))
    return [sides.number(name, value) for name, value in found._asdict().items()]


class PrecisionRecall(NamedTuple):
    """Shares of samples that lie among the reference, and of the reference that lies among the samples."""

    precision: float
    recall: float


def precision_recall(features: Tensor, reference: Tensor, *, neighbours: int = 3, chunk: int = 1024) -> PrecisionRecall:
    """Improved precision and recall of features (N, D) against (M, D) (arXiv 1904.06991).

    A point lies among others if it is within the distance of one of them to its ``neighbours``-th nearest neighbour.
    Distances are computed ``chunk`` rows at a time. Both numbers depend on N and M: compare only equal ones.

    Raises:
        UsageError: no more points than ``neighbours`` on a side.
    """
    need_pictures(neighbours + 1, "precision and recall", features, reference)
    # About a common centre products lose fewer digits.
    centre = reference.double().mean(dim=0)
    features, reference = features.double() - centre, reference.double() - centre
    radii = [_radii(points, neighbours, chunk) for points in (features, reference)]
    return PrecisionRecall(
        _covered(features, reference, radii[1], chunk), _covered(reference, features, radii[0], chunk)
    )


def _radii(points: Tensor, neighbours: int, chunk: int) -> Tensor:
    # The nearest point of all is the point itself.
    return torch.cat([torch.cdist(part, points).kthvalue(neighbours + 1, dim=1).values for part in points.split(chunk)])


def _covered(points: Tensor, others: Tensor, radii: Tensor, chunk: int) -> float:
    """The share of ``points`` (N, D) that lie within ``radii`` (M,) of any of ``others`` (M, D)."""
    inside = [(torch.cdist(part, others) <= radii).any(dim=1) for part in points.split(chunk)]
    return torch.cat(inside).double().mean().item()
