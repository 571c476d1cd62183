"""Videos: from states in [-1, 1] to animated GIFs and, where a package for it is installed, MP4 files."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from io import BytesIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..console import dumps
from .images import to_images

if TYPE_CHECKING:
    from torch import Tensor

STRIP = 5  # frames by which a picture shows a video


def to_videos(x: Tensor) -> list[list[Image.Image]]:
    """States (B, 3, F, H, W) in [-1, 1] as B lists of F frames; errors are those of :func:`.images.to_images`."""
    images, frames = to_images(x.movedim(2, 1).flatten(0, 1)), x.shape[2]
    return [images[start : start + frames] for start in range(0, len(images), frames)]


def strip_places(frames: int) -> list[int]:
    """The places of at most STRIP frames of a video, evenly from the first to the last."""
    shown = min(STRIP, frames)
    return [round(place * (frames - 1) / max(1, shown - 1)) for place in range(shown)]


def gif_of(frames: Sequence[Image.Image], rate: int, recipe: dict | None = None) -> bytes:
    """The content of an animated GIF that begins anew at its end, with ``recipe`` as JSON in its comment.

    ``rate``: frames a second; a GIF counts hundredths of a second, so that it is met on average alone.
    """
    # Ends of frames, rounded, so that no error grows.
    ends = [round(100 * place / rate) * 10 for place in range(len(frames) + 1)]
    options: dict[str, Any] = {} if recipe is None else {"comment": dumps(recipe).encode()}
    content = BytesIO()
    frames[0].save(
        content, format="GIF", save_all=True, append_images=list(frames[1:]), loop=0,
        duration=[end - begun for begun, end in pairwise(ends)], **options,
    )  # fmt: skip
    return content.getvalue()


def mp4_of(frames: Sequence[Image.Image], rate: int, recipe: dict | None = None) -> bytes:
    """The content of an MP4 file in H.264 at ``rate`` frames a second, with ``recipe`` as JSON in its comment."""
    import av

    content = BytesIO()
    with av.open(content, "w", format="mp4") as container:
        if recipe is not None:
            container.metadata["comment"] = dumps(recipe)
        stream = container.add_stream("libx264", rate=Fraction(rate), options={"crf": "17"})
        # Every other pixel has a colour of its own, as players want it.
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(frame.convert("RGB")), format="rgb24")))
        container.mux(stream.encode())
    return content.getvalue()
