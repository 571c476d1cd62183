"""Training data that the encoders have seen: conditioning and latents, read from the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..teachers.encoders import REFERENCE, collate, with_negative
from ..weights.cache import ShardedCache
from .batches import Batch, bucket_batch, draw_latents


@dataclass(frozen=True)
class SampleKeys:
    """Cache keys of a text, and of the latents of a picture and of a reference where there is one.

    ``empty``: of the empty text, where its encoder sees the reference too.
    """

    text: str
    latents: str | None = None
    reference: str | None = None
    empty: str | None = None

    @property
    def told(self) -> tuple[str | None, ...]:
        """All of them; without a reference as they always were."""
        own = (self.text, self.latents)
        return own if self.reference is None else (*own, self.reference)


@dataclass(frozen=True)
class Bucket:
    """Samples of one size. ``shape`` (C, *S) of their latents."""

    shape: tuple[int, ...]
    samples: Sequence[SampleKeys]


@dataclass(frozen=True)
class EncodedData:
    """Samples in buckets, and the caches that hold them.

    ``told``: the texts by their keys. ``negative``: key of the empty prompt, where guidance needs it. ``left_out``:
    pictures that could not be used.
    """

    buckets: Sequence[Bucket]
    texts: ShardedCache
    latents: ShardedCache
    told: Mapping[str, str]
    negative: str | None = None
    left_out: int = 0

    @property
    def fingerprint(self) -> str:
        # Keys are hashes of everything that shapes an entry.
        buckets = [(bucket.shape, [sample.told for sample in bucket.samples]) for bucket in self.buckets]
        return hashlib.sha256(json.dumps([self.negative, buckets]).encode()).hexdigest()

    def batch(self, seed: int, place: int, size: int) -> Batch:
        number, chosen = bucket_batch(tuple(len(bucket.samples) for bucket in self.buckets), seed, place, size)
        bucket = self.buckets[number]
        samples = [bucket.samples[index] for index in chosen.tolist()]
        conditioning = collate([self.texts[sample.text] for sample in samples])
        if self.negative is not None:
            empty = [self.negative if sample.empty is None else sample.empty for sample in samples]
            conditioning = with_negative(conditioning, collate([self.texts[key] for key in empty]))
        references = [self.latents[sample.reference]["mean"] for sample in samples if sample.reference is not None]
        if references:
            # Stock pipelines show the network the mode of the posterior.
            conditioning[REFERENCE] = torch.stack(references).float()
        shape, texts = (size, *bucket.shape), [self.told[sample.text] for sample in samples]
        posteriors = [self.latents[sample.latents] for sample in samples if sample.latents is not None]
        if not posteriors:
            return Batch(shape, conditioning, texts=texts)
        mean, std = (torch.stack([posterior[name] for posterior in posteriors]) for name in ("mean", "std"))
        return Batch(shape, conditioning, draw_latents(mean, std, seed, place), texts)
