"""The Inception score (IS)."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import UsageError
from ..distributions import Measure, Sides, need_pictures


def inception_scores(sides: Sides) -> list[Measure]:
    extractor = sides.extractor
    logits = extractor.logits(sides.ours.need_features("the Inception score"))
    if logits is None:
        raise UsageError(
            f"{extractor.name} has no classes, and the Inception score is about them", "leave it out of --metrics"
        )
    return [sides.number("is", inception_score(logits), referred=False)]


def inception_score(logits: Tensor, splits: int = 10) -> float:
    """exp(E KL(p(class | picture) || p(class))) of logits (N, classes), mean over ``splits`` (arXiv 1606.03498).

    Between 1 and the number of classes. Splits are runs of the order given, as is usual. UsageError below one a split.
    """
    need_pictures(splits, "the Inception score", logits)
    scores = []
    for part in logits.double().log_softmax(dim=1).tensor_split(splits):
        marginal = part.exp().mean(dim=0).log()
        # A class of probability 0 contributes nothing, and its logarithm is minus infinity.
        divergence = torch.where(part.exp() > 0, part.exp() * (part - marginal), 0.0)
        scores.append(divergence.sum(dim=1).mean().exp().item())
    return sum(scores) / splits
