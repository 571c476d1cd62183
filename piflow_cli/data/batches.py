"""Training data in an order that depends on the seed and the place alone: nothing is stored to resume."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from ..teachers.base import Conditioning

DRAWS = 1  # keeps the seeds of drawn latents apart from those of orders


@dataclass(frozen=True)
class Batch:
    """Samples of one size, on the CPU.

    ``shape`` (B, C, *S): of their states. ``x_0``: float32, None where there are no images. ``texts``: the prompts or
    captions, B of them or none.
    """

    shape: tuple[int, ...]
    conditioning: Conditioning
    x_0: Tensor | None = None
    texts: Sequence[str] = ()


class TrainingData(Protocol):
    """Samples without end. Data that would train differently have different ``fingerprint``s.

    ``left_out``: the number of pictures that could not be used, which were named as they were met.
    """

    @property
    def fingerprint(self) -> str: ...

    @property
    def left_out(self) -> int: ...

    def batch(self, seed: int, place: int, size: int) -> Batch:
        """``size`` samples at ``place`` = 0, 1, 2, … of the order that ``seed`` gives for batches of that size."""


@dataclass(frozen=True)
class LabelledImages:
    """Images (N, C, H, W) float32 in [-1, 1] and class labels (N,) int64, with the family's ``condition`` of labels."""

    images: Tensor
    labels: Tensor
    condition: Callable[[Sequence[int]], Conditioning]
    left_out: int = 0

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.images.numpy().tobytes() + self.labels.numpy().tobytes()).hexdigest()

    def batch(self, seed: int, place: int, size: int) -> Batch:
        chosen = batch_indices(len(self.labels), seed, place * size, size)
        x_0 = self.images[chosen]
        return Batch(tuple(x_0.shape), self.condition(self.labels[chosen].tolist()), x_0)


@dataclass(frozen=True)
class UniformLabels:
    """Every one of ``classes`` equally often, for students that start from noise of ``shape`` (C, *S)."""

    classes: int
    shape: tuple[int, ...]
    condition: Callable[[Sequence[int]], Conditioning]
    left_out: int = 0

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(repr((self.classes, self.shape)).encode()).hexdigest()

    def batch(self, seed: int, place: int, size: int) -> Batch:
        labels = batch_indices(self.classes, seed, place * size, size)
        return Batch((size, *self.shape), self.condition(labels.tolist()))


def draw_latents(mean: Tensor, std: Tensor, seed: int, place: int) -> Tensor:
    """Latents (B, C, h, w) float32 of batch ``place``, drawn from the VAE's posteriors as the published recipes do.

    Every visit of a picture is a new draw, which the seed and the place determine: nothing has to be remembered.
    """
    generator = torch.Generator().manual_seed(mixed_seed(seed, place, DRAWS))
    return mean.float() + std.float() * torch.randn(mean.shape, generator=generator)


def batch_indices(length: int, seed: int, start: int, count: int) -> Tensor:
    """Places (count,) int64 of samples ``start`` to ``start + count`` of an endless shuffled order of ``length`` items.

    Every pass is its own permutation, drawn from the seed and the number of the pass: nothing has to be remembered.
    """
    first, last = start // length, (start + count - 1) // length
    order = torch.cat([_permutation(length, seed, number) for number in range(first, last + 1)])
    return order[start - first * length :][:count]


def bucket_batch(lengths: tuple[int, ...], seed: int, place: int, size: int) -> tuple[int, Tensor]:
    """Bucket, and places (size,) in it, of batch ``place`` of an endless order; a batch is of one bucket.

    Bucket b has lengths[b] samples and its own endless shuffled order, cut into batches. Pass p over all buckets holds
    batches floor(p n_b / size) to floor((p + 1) n_b / size) of each, shuffled: every sample comes equally often,
    however small its bucket.
    """
    number = place * size // sum(lengths)
    # The floors let a pass begin later than this estimate says, never earlier.
    while sum(_batches_before(lengths, number + 1, size)) <= place:
        number += 1
    begun = _batches_before(lengths, number, size)
    buckets, ranks = _pass(lengths, seed, number, size)
    position = place - sum(begun)
    bucket = int(buckets[position])
    return bucket, batch_indices(lengths[bucket], mixed_seed(seed, bucket), int(ranks[position]) * size, size)


def mixed_seed(*parts: int) -> int:
    """One well-mixed 63-bit seed of several numbers."""
    import numpy as np

    return int(np.random.SeedSequence(parts).generate_state(1, dtype=np.uint64)[0] >> 1)


def _batches_before(lengths: Sequence[int], number: int, size: int) -> list[int]:
    """The number of batches of each bucket before pass ``number``."""
    return [number * length // size for length in lengths]


@lru_cache(maxsize=2)
def _pass(lengths: tuple[int, ...], seed: int, number: int, size: int) -> tuple[Tensor, Tensor]:
    """The bucket of each batch of a pass, in order, and the number of the batch in its bucket."""
    begun, ended = (_batches_before(lengths, end, size) for end in (number, number + 1))
    buckets = torch.cat([torch.full((last - first,), bucket) for bucket, (first, last) in enumerate(zip(begun, ended))])
    ranks = torch.cat([torch.arange(first, last) for first, last in zip(begun, ended)])
    order = _permutation(len(buckets), seed, number)
    return buckets[order], ranks[order]


@lru_cache(maxsize=32)
def _permutation(length: int, seed: int, number: int) -> Tensor:
    return torch.randperm(length, generator=torch.Generator().manual_seed(mixed_seed(seed, number)))
