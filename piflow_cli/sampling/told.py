"""What text encoders are told of pictures to draw: texts, and where the encoder sees too, what is shown with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from ..data.buckets import cut, fit
from ..teachers.encoders import EMPTY
from ..teachers.stock_encoders import StockEncoders
from ..teachers.text_to_image import TextToImageFamily
from .request import ImageSpec
from .text_specs import opened_reference

# A text, and where the text encoder sees too, the path of the picture and the size that it is cut to.
Place = tuple[str, str | None, tuple[int, int] | None]


def place_of(family: TextToImageFamily, spec: ImageSpec, text: str) -> Place:
    """What an encoder makes of ``text`` for ``spec`` depends on: itself, and what it sees with it."""
    return (text, spec.reference, spec.size) if family.sees else (text, None, None)


def places_of(family: TextToImageFamily, specs: Sequence[ImageSpec], guided: bool) -> list[Place]:
    """The places of the texts of ``specs``, and of the empty ones where the pipeline is ``guided``, each once."""
    empty = [place_of(family, spec, EMPTY) for spec in specs] if guided else []
    return list(dict.fromkeys([*(place_of(family, spec, spec.text) for spec in specs), *empty]))


def seen_at(places: Sequence[Place]) -> list[Image.Image]:
    """What an encoder that sees is shown with the texts at ``places``, cut as training cuts it."""
    return [
        cut(opened_reference(reference), size)
        for _, reference, size in places
        if reference is not None and size is not None
    ]


def encoded_references(
    encoders: StockEncoders, specs: Sequence[ImageSpec], family: TextToImageFamily, dtype: torch.dtype
) -> dict[ImageSpec, Tensor]:
    """Latents (C, h, w) of the pictures that ``specs`` edit, each at its reference's size, and encoded once."""
    encoded: dict[tuple[str, tuple[int, int]], Tensor] = {}
    found: dict[ImageSpec, Tensor] = {}
    for spec in specs:
        if spec.reference is None or spec.size is None:
            continue
        place = (spec.reference, spec.size)
        if place not in encoded:
            shown = fit(opened_reference(spec.reference), family.reference_size(spec.size))
            mean, _ = encoders.encode_images(shown[None])
            encoded[place] = mean[0].to(dtype)
        found[spec] = encoded[place]
    return found
