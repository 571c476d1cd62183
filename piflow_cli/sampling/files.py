"""The files of what is drawn: a PNG of each picture; of each video a GIF, an MP4 file, and PNGs of some frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors.table import INSTALL_HINTS
from ..reports.images import png_of, to_images
from ..reports.videos import gif_of, mp4_of, strip_places, to_videos
from .request import GIF, MP4, MP4_PACKAGE, PNG, ImageSpec, Sampler, SampleRequest, writes_mp4

if TYPE_CHECKING:
    from PIL import Image

    from ..console import Console

WRITERS = {GIF: gif_of, MP4: mp4_of}


@dataclass(frozen=True)
class Made:
    """A picture or a video as ``files``, their contents by their endings, and as PNGs, ``shown`` in the grid."""

    files: Mapping[str, bytes]
    shown: Sequence[bytes]


def endings_of(request: SampleRequest, sampler: Sampler, console: Console) -> tuple[str, ...]:
    """The endings of the files of each picture or video; ``console`` is told where videos are no MP4 files."""
    if sampler.frame_rate is None:
        return (PNG,)
    mp4 = writes_mp4() if request.mp4 is None else request.mp4
    if request.mp4 is None and not mp4:
        console.say(f"videos are animated GIFs; for MP4 files too: {INSTALL_HINTS[MP4_PACKAGE]}")
    return (GIF, MP4) if mp4 else (GIF,)


def drawn(
    request: SampleRequest, sampler: Sampler, endings: Sequence[str], parts: Sequence[Sequence[ImageSpec]]
) -> dict[ImageSpec, Made]:
    """The files of ``parts``: to compress them takes long, and each process does it for its own."""
    made = {}
    for specs in parts:
        states = sampler.draw(specs)
        of_each = [[image] for image in to_images(states)] if sampler.frame_rate is None else to_videos(states)
        for spec, frames in zip(specs, of_each, strict=True):
            recipe = {**sampler.recipe, **spec.recipe} if request.metadata else None
            made[spec] = _encoded(frames, sampler.frame_rate, recipe, endings)
    return made


def _encoded(frames: Sequence[Image.Image], rate: int | None, recipe: dict | None, endings: Sequence[str]) -> Made:
    """A picture, which is one frame without a ``rate``, or a video."""
    if rate is None:
        png = png_of(frames[0], recipe)
        return Made({PNG: png}, [png])
    files = {ending: WRITERS[ending](frames, rate, recipe) for ending in endings}
    return Made(files, [png_of(frames[place]) for place in strip_places(len(frames))])
