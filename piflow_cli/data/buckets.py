"""Aspect-ratio buckets: the few picture sizes that a run trains at, and pictures cut to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import UsageError

if TYPE_CHECKING:
    from ..presets.schema import DataSection

Size = tuple[int, int]
"""Width and height in pixels."""

# Widths step by about a sixteenth of the square's side: finer steps would only thin the buckets out.
STEPS = 16
# Times the shorter side: a line of one pixel that is scaled up to a square's side would take gigabytes.
LONGEST = 32


def buckets_of(section: DataSection, multiple: int) -> list[Size]:
    """The sizes a preset asks for; raises UsageError for the first that is no multiple of ``multiple`` pixels."""
    if section.sizes:
        for width, height in section.sizes:
            for side, name in ((width, "width"), (height, "height")):
                _check(side, multiple, f"data.sizes holds {width}x{height}, and its {name}", section.sizes)
        return list(dict.fromkeys(section.sizes))
    if section.resolution is None:
        raise UsageError("no size is given", "--set data.resolution=1024, or --set data.sizes=[[832,1216]]")
    _check(section.resolution, multiple, f"data.resolution {section.resolution}")
    return bucket_sizes(section.resolution, section.aspect_ratio, multiple)


def bucket_sizes(resolution: int, aspect_ratio: float, multiple: int) -> list[Size]:
    """Sizes of about ``resolution`` squared pixels, never more, from the widest to the tallest.

    Both sides are multiples of ``multiple``, as ``resolution`` must be; the longer is at most ``aspect_ratio`` times
    the shorter. With (w, h) there is (h, w), and no size could be taller by one ``multiple`` at its shorter side.
    """
    step = multiple * max(1, resolution // (STEPS * multiple))
    tall = []
    for width in range(resolution - step, 0, -step):
        height = resolution**2 // (width * multiple) * multiple
        if height > aspect_ratio * width:
            break
        tall.append((width, height))
    return [(height, width) for width, height in reversed(tall)] + [(resolution, resolution)] + tall


def nearest_bucket(size: Size, buckets: Sequence[Size]) -> Size:
    """The bucket whose aspect ratio is nearest to that of ``size``, by the ratio of the ratios."""
    width, height = size
    return min(buckets, key=lambda bucket: abs(math.log(bucket[0] * height / (bucket[1] * width))))


def fit(picture: Image.Image, size: Size) -> Tensor:
    """Scale ``picture`` (RGB) until it covers ``size``, cut its centre out: (3, H, W) float32 in [-1, 1]."""
    return _tensor(cut(picture, size))


def cut(picture: Image.Image, size: Size) -> Image.Image:
    """Scale ``picture`` until it covers ``size``, and cut its centre out."""
    return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)


def centre_crop(picture: Image.Image, side: int) -> Tensor:
    """The centre square of ``picture`` (RGB) at ``side`` pixels, (3, side, side) float32 in [-1, 1].

    It is cut as ADM cuts ImageNet's pictures.

    Halved by averaging while both sides stay at least ``side``, then scaled bicubically until the shorter one is
    ``side`` (Dhariwal and Nichol, arXiv 2105.05233, whose teachers, and those after them, have seen no other pictures).
    """
    picture = _without_far_ends(picture)
    while min(picture.size) >= 2 * side:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = side / min(picture.size)
    width, height = (round(length * scale) for length in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    return _tensor(picture.crop((left, top, left + side, top + side)))


def _without_far_ends(picture: Image.Image) -> Image.Image:
    """``picture`` without what of a thin one, as a line between texts, would be scaled up only to be cut off."""
    longest = LONGEST * min(picture.size)
    cuts = [max(0, (length - longest) // 2) for length in picture.size]
    left, top = cuts
    return picture.crop((left, top, picture.width - left, picture.height - top)) if any(cuts) else picture


def _tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1).contiguous()


def _check(side: int, multiple: int, what: str, sizes: Sequence[Size] = ()) -> None:
    """Raise UsageError where ``side`` is no multiple; ``sizes``: all that are asked for, where it is a side of one."""
    if side % multiple:
        near = sorted({max(multiple, side // multiple * multiple), (side // multiple + 1) * multiple})
        mended = [
            f"data.sizes={[[other if value == side else value for value in size] for size in sizes]}".replace(" ", "")
            if sizes
            else f"data.resolution={other}"
            for other in near
        ]
        raise UsageError(
            f"{what} is no multiple of {multiple} pixels, which this teacher needs",
            f"take the nearest: --set {', or --set '.join(mended)}",
        )
