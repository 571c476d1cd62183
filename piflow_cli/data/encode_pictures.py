"""Encoding pictures and videos: cut to their size, through the autoencoder, into the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..teachers.encoders import EncoderFactory, PictureEncoder
from ..weights.cache import ShardedCache
from .buckets import Size, fit
from .picture import Picture
from .pictures import Unreadable
from .sample_kinds import OF_PICTURES, SampleKind
from .videos import clip

if TYPE_CHECKING:
    from ..console import Console
    from ..presets.schema import DataSection

PICTURES_AT_ONCE = 4


def cut_of(section: DataSection, factory: EncoderFactory) -> Callable[[Picture, Size], Tensor]:
    """What cuts a sample to a size: a picture (3, H, W), or the clip (3, F, H, W) of a video."""
    frames, rate = section.frames, factory.frame_rate
    if frames is None:
        return fitted

    def clip_of(video: Picture, size: Size) -> Tensor:
        assert rate is not None, "a family of videos knows how many frames a second they have"
        return clip(video.read(), size, frames, rate)

    return clip_of


def fitted(picture: Picture, size: Size) -> Tensor:
    """A picture scaled and cut to ``size``, (3, H, W); raises Unreadable and OSError."""
    return fit(picture.open(), size)


def encode_pictures(
    encoders: Callable[[], PictureEncoder],
    pictures: Mapping[str, tuple[Size, Picture]],
    cache: ShardedCache,
    console: Console,
    cut: Callable[[Picture, Size], Tensor] = fitted,
    kind: SampleKind = OF_PICTURES,
) -> dict[str, str]:
    """Put the posteriors of pictures into the cache, size by size, each ``cut`` to its size: (3, *F, H, W) in [-1, 1].

    Returns, by key, what the decoder said of those it refused.
    """
    groups: dict[Size, list[str]] = {}
    for key, (size, _) in pictures.items():
        groups.setdefault(size, []).append(key)
    failed: dict[str, str] = {}
    # A clip of five seconds is as much as eighty pictures.
    at_once = PICTURES_AT_ONCE if kind is OF_PICTURES else 1
    with console.progress(len(pictures), description=f"encoding {kind.names}") as bar, cache.writer() as writer:
        for size, keys in groups.items():
            for start in range(0, len(keys), at_once):
                chosen = {key: pictures[key][1] for key in keys[start : start + at_once]}
                decoded = dict(_decoded(chosen, size, failed, cut))
                if decoded:
                    means, stds = encoders().encode_images(torch.stack(list(decoded.values())))
                    for key, mean, std in zip(decoded, means, stds, strict=True):
                        writer.add(key, {"mean": mean, "std": std}, chosen[key].name)
                bar.update(len(chosen))
    return failed


def _decoded(
    pictures: Mapping[str, Picture], size: Size, failed: dict[str, str], cut: Callable[[Picture, Size], Tensor]
) -> Iterator[tuple[str, Tensor]]:
    for key, picture in pictures.items():
        try:
            yield key, cut(picture, size)
        except (OSError, Unreadable) as error:
            failed[key] = str(error)
