"""Encoders of a few lines, whose every answer can be worked out by hand, and a
text-to-image family around the small DiT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from piflow_cli.teachers.dit import DiTFamily
from piflow_cli.teachers.encoders import EncoderFactory, negative_of

LONGEST = 100
IDENTITY = {"model": "fake", "revision": "1", "dtype": "float32"}


def expected_text(text: str) -> dict[str, Tensor]:
    """A row of two numbers for each letter, a mask of ones, and the length as a pooled vector."""
    codes = torch.tensor([float(ord(letter)) for letter in text]).reshape(-1, 1)
    return {
        "embeds": torch.cat([codes, -codes], dim=1),
        "mask": torch.ones(len(text)),
        "pooled": torch.full((3,), float(len(text))),
    }


def expected_latents(images: Tensor) -> Tensor:
    """Means over colours and over 2 x 2 pixels: (B, 1, H/2, W/2)."""
    return avg_pool2d(images.mean(dim=1, keepdim=True), 2)


@dataclass
class FakeEncoders:
    """Remembers what it was asked; ``fails_at`` is the number of the call that is
    interrupted, ``std`` that of every latent."""

    texts: list[str] = field(default_factory=list)
    images: int = 0
    opened: int = 0
    closed: int = 0
    fails_at: int | None = None
    std: float = 0.0

    def encode_text(self, texts: Sequence[str]) -> list[dict[str, Tensor]]:
        self._count()
        self.texts += texts
        return [expected_text(text) for text in texts]

    def long_texts(self, texts: Sequence[str]) -> dict[str, str]:
        return {text: f"{len(text)} letters" for text in texts if len(text) > LONGEST}

    def encode_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self._count()
        assert images.ndim == 4 and images.shape[1] == 3 and images.dtype == torch.float32
        self.images += len(images)
        mean = expected_latents(images)
        return mean, torch.full_like(mean, self.std)

    def close(self) -> None:
        self.closed += 1

    def _count(self) -> None:
        if self.fails_at is not None:
            self.fails_at -= 1
            if self.fails_at < 0:
                raise KeyboardInterrupt


def factory_of(encoders: FakeEncoders, identity: Mapping[str, str] = IDENTITY, multiple: int = 4) -> EncoderFactory:
    def open_(device: torch.device, offload: bool) -> FakeEncoders:
        encoders.opened += 1
        return encoders

    return EncoderFactory(dict(identity), latent_channels=1, downsampling=2, size_multiple=multiple, open=open_)


def sealed_factory(identity: Mapping[str, str] = IDENTITY, multiple: int = 4) -> EncoderFactory:
    """A factory of encoders that must not be loaded."""

    def open_(device: torch.device, offload: bool) -> FakeEncoders:
        raise AssertionError("the encoders were loaded although the cache is complete")

    return EncoderFactory(dict(identity), latent_channels=1, downsampling=2, size_multiple=multiple, open=open_)


class TextDiTFamily(DiTFamily):
    """A DiT whose class is the number of letters in the prompt; the empty prompt is the class of no class."""

    name = "text-dit"
    factory: EncoderFactory

    def encoders(self, section) -> EncoderFactory:
        return self.factory

    def call(self, model, x, sigma, conditioning):
        if "mask" not in conditioning:
            return super().call(model, x, sigma, conditioning)
        lengths = conditioning["mask"].sum(dim=1).long()
        classes = self.class_count(model)
        return super().call(model, x, sigma, {"class_labels": torch.where(lengths == 0, classes, lengths % classes)})

    def unconditional(self, model, conditioning):
        return negative_of(conditioning) if "mask" in conditioning else super().unconditional(model, conditioning)
