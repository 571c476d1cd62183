"""Encoders of prompts and pictures for a transformer: the contract between model families and data.

A family returns an :class:`EncoderFactory` from ``TeacherFamily.encoders(section)``, where ``section`` is the preset's
TeacherSection. That reads no weights and downloads nothing. Training asks it to ``open`` only for what the cache lacks.

Conditioning. What ``encode_text`` returns is cached text by text. For a batch every entry is padded with zeros along
its first axis to the longest of the batch, stacked behind a batch axis (masks too, so a padded position is False or 0),
and handed to ``TeacherFamily.call`` under the same names. A family whose network does not mask therefore pads to its
fixed length itself.

Unconditional half of true classifier-free guidance. The empty prompt is encoded and cached with every data set. Where
the teacher's Guidance has a scale other than 1, the training data add its entries to the conditioning as
``negative_<name>``, one row for each sample, so that they are moved and repeated with the rest.
``TeacherFamily.unconditional`` of a text-to-image family is :func:`negative_of`; ``TeacherFamily.call`` ignores the
``negative_`` entries. Families that embed the guidance scale instead (FLUX.1-dev) get no such entries, since their
Guidance has the scale 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL.Image import Image
from torch import Tensor

EMPTY = ""  # the text of the half of guidance that is told nothing
NEGATIVE_PREFIX = "negative_"
# The masks of texts, as some stock pipelines call them.
ATTENTION_MASK = "prompt_attention_mask"
ATTENTION_MASKS = (ATTENTION_MASK, NEGATIVE_PREFIX + ATTENTION_MASK)
# Latents (B, C, h, w) of the pictures that are to be edited, of the size of what is made of them.
REFERENCE = "reference_latents"


class PictureEncoder(Protocol):
    """The image encoder of one model, loaded on a device when it is first used."""

    def encode_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, C, *S) of the latents of ``images`` (B, 3, H, W) float32 in [-1, 1].

        Videos are (B, 3, frames, H, W), and their latents (B, C, F, h, w).
        Both are normalised as the transformer takes latents; a batch draws its latents from them.
        """

    def close(self) -> None:
        """Free the memory of everything loaded, on the device too; nothing is encoded afterwards."""


class Encoders(PictureEncoder, Protocol):
    """The text encoder and the image encoder of one model.

    An implementation loads each half when it is first used: a set of prompts needs no image encoder, and pictures whose
    captions are cached need no text encoder.
    """

    def encode_text(self, texts: Sequence[str], pictures: Sequence[Image] = ()) -> list[dict[str, Tensor]]:
        """Conditioning of each text, on the CPU and without a batch axis, in the dtype of the cache.

        The first axis of an entry may differ in length between texts; an entry that marks real positions tells the
        count. ``pictures``: what an encoder that sees is shown with each text.
        """

    def long_texts(self, texts: Sequence[str], pictures: Sequence[Image] = ()) -> dict[str, str]:
        """Those of ``texts`` that the encoder cuts, each with a note on how much of it is read."""


@dataclass(frozen=True)
class EncoderFactory:
    """Encoders that are not loaded yet, and the facts that are known without their weights.

    ``identity``: everything that shapes their output, as text: model, revision, dtype, lengths, prompt template, VAE;
    it is part of every cache key. ``latent_channels`` C; ``downsampling``: pixels a latent position spans, each way;
    ``size_multiple``: the number of pixels that width and height of a picture must be multiples of. ``open`` gives the
    encoders for a device; the second argument says whether those of text wait in the CPU's memory, layer by layer.
    ``shown``: the network is shown a reference picture too, of the ``reference_size`` of the size of what is made;
    ``sees``: so is the text encoder, with each text and with the empty one.
    ``frame_step``: frames of a video that share a latent position, but the first, which has its own; None: of pictures.
    ``frame_rate``: how many a second the videos have that it was trained on; None: of pictures.
    """

    identity: Mapping[str, str]
    latent_channels: int
    downsampling: int
    size_multiple: int
    open: Callable[[torch.device, bool], Any]
    shown: bool = False
    frame_step: int | None = None
    frame_rate: int | None = None
    sees: bool = False
    reference_size: Callable[[tuple[int, int]], tuple[int, int]] = lambda size: size

    def latent_shape(self, width: int, height: int, frames: int | None = None) -> tuple[int, ...]:
        """Shape (C, *S) of the latents of ``width`` x ``height`` pixels: a picture, or a video of ``frames``."""
        return latent_shape(self.latent_channels, self.downsampling, (width, height), frames, self.frame_step)


def latent_shape(
    channels: int, factor: int, size: tuple[int, int], frames: int | None = None, frame_step: int | None = None
) -> tuple[int, ...]:
    """Shape (C, h, w) of the latents of a picture of width and height ``size``; (C, F, h, w) of a video of ``frames``.

    ``factor``: pixels that a position spans each way; ``frame_step``: as of :class:`EncoderFactory`.
    """
    width, height = size
    shape = channels, height // factor, width // factor
    if frame_step is None:
        return shape
    assert frames is not None, "a video has frames"
    return channels, (frames - 1) // frame_step + 1, *shape[1:]


def negative_of(conditioning: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The conditioning of the empty prompt, from the ``negative_<name>`` entries of ``conditioning``."""
    return {
        name.removeprefix(NEGATIVE_PREFIX): value
        for name, value in conditioning.items()
        if name.startswith(NEGATIVE_PREFIX)
    }


def reference_of(conditioning: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reference pictures in ``conditioning``, which both halves of guidance are shown."""
    return {REFERENCE: conditioning[REFERENCE]} if REFERENCE in conditioning else {}


def with_negative(conditioning: Mapping[str, Tensor], negative: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``conditioning`` with the entries of ``negative`` as ``negative_<name>``; the inverse of :func:`negative_of`."""
    return {**conditioning, **{NEGATIVE_PREFIX + name: value for name, value in negative.items()}}


def lengthened(value: Tensor, length: int) -> Tensor:
    """``value`` (B, L, ...) with zeros up to ``length``, which masks hide."""
    padding = value.new_zeros(len(value), length - value.shape[1], *value.shape[2:])
    return torch.cat([value, padding], dim=1)


def collate(entries: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """A batch of conditionings: entries padded with zeros along their first axis to the longest, and stacked."""
    return {name: torch.stack(_padded([entry[name] for entry in entries])) for name in entries[0]}


def _padded(values: Sequence[Tensor]) -> list[Tensor]:
    lengths = [len(value) if value.ndim else 0 for value in values]
    longest = max(lengths)
    return [
        value if length == longest else torch.cat([value, value.new_zeros(longest - length, *value.shape[1:])])
        for value, length in zip(values, lengths)
    ]
