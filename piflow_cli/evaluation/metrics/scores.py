"""Scores other than the Frechet distance: kernel distance, Inception score, precision and recall, diversity."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import UsageError
from ..extractors.clean_fid import clean_fid_module


class PrecisionRecall(NamedTuple):
    """Shares of samples that lie among the reference, and of the reference that lies among the samples."""

    precision: float
    recall: float


def kernel_distance(features: Tensor, reference: Tensor, seed: int = 0) -> float:
    """KID of features (N, D) and (M, D): unbiased squared MMD under the kernel (x·y /
    D + 1)^3 (Binkowski et al., 1801.01401).

    By clean-fid: the mean over 100 random subsets of at most 1,000 of each.
    ``seed`` is of the subsets. It can be negative.

    Raises:
        UsageError: fewer than two of either.
        RunError: clean-fid is not installed.
    """
    _need(2, "KID", features, reference)
    distance = clean_fid_module("fid").kernel_distance
    with _numpy_seeded(seed):
        return distance(features.double().numpy(), reference.double().numpy())


@contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """NumPy's global generator, which clean-fid draws from, seeded inside and as it was outside."""
    import numpy as np

    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)


def inception_score(logits: Tensor, splits: int = 10) -> float:
    """exp(E KL(p(class | picture) || p(class))) of logits (N, classes), mean over
    ``splits`` (Salimans et al., 1606.03498).

    Between 1 and the number of classes. Splits are runs of the order given, as is usual. UsageError below one a split.
    """
    _need(splits, "the Inception score", logits)
    scores = []
    for part in logits.double().log_softmax(dim=1).tensor_split(splits):
        marginal = part.exp().mean(dim=0).log()
        # A class of probability 0 contributes nothing, and its logarithm is minus infinity.
        divergence = torch.where(part.exp() > 0, part.exp() * (part - marginal), 0.0)
        scores.append(divergence.sum(dim=1).mean().exp().item())
    return sum(scores) / splits


def precision_recall(features: Tensor, reference: Tensor, *, neighbours: int = 3, chunk: int = 1024) -> PrecisionRecall:
    """Improved precision and recall of features (N, D) against (M, D) (Kynkäänniemi et al., arXiv 1904.06991).

    A point lies among others if it is within the distance of one of them to its ``neighbours``-th nearest neighbour.
    Distances are computed ``chunk`` rows at a time. Both numbers depend on N and M: compare only equal ones.

    Raises:
        UsageError: no more points than ``neighbours`` on a side.
    """
    _need(neighbours + 1, "precision and recall", features, reference)
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


def diversity(features: Tensor, groups: Tensor) -> float:
    """Mean distance of two different samples of one prompt or class, mean over those with at least two samples.

    Args:
        features: (N, D).
        groups: (N,) integers; samples of the same prompt or class share one.

    Raises:
        UsageError: no group has two samples.
    """
    distances = []
    for group in groups.unique().tolist():
        members = features[groups == group].double()
        if len(members) > 1:
            distances.append(torch.pdist(members).mean().item())
    if not distances:
        raise UsageError(
            "diversity compares pictures of the same prompt or class, and there is one of each",
            "give several pictures of one prompt or label",
        )
    return sum(distances) / len(distances)


def _need(count: int, what: str, *sides: Tensor) -> None:
    fewest = min(len(side) for side in sides)
    if fewest < count:
        raise UsageError(f"{what}: at least {count} pictures are needed, and there are {fewest}", "give more pictures")
