"""Numbers of single samples: kept until all batches are in, so that a report does not depend on how it was batched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

Numbers = TypeVar("Numbers", bound=NamedTuple)


def mean_square(value: Tensor) -> Tensor:
    """Mean squares (B,) over positions and channels of ``value`` (B, ...)."""
    return value.flatten(1).square().mean(dim=1)


def to_host(numbers: Numbers) -> Numbers:
    """The same numbers in host memory."""
    return type(numbers)(*(None if value is None else value.cpu() for value in numbers))


def joined(batches: Sequence[Numbers]) -> Numbers:
    """Tuples of tensors with the samples first, end to end; what is None in one is None in all."""
    first = batches[0]
    return type(first)(*(None if column[0] is None else torch.cat(column) for column in zip(*batches)))
