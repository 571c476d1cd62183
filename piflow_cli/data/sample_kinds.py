"""What a source holds, pictures or videos: one row each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import pictures, videos

if TYPE_CHECKING:
    from ..presets.schema import DataSection


@dataclass(frozen=True)
class SampleKind:
    """A row.

    Attributes:
        name: of one, in words; ``names``: of several.
        suffixes: of files that are taken for one; ``example``: the one that hints have.
        measure: width and height of bytes as a person sees them, and seconds where they last; raises Unreadable.
        readers: threads that read whole files at once, at most.
    """

    name: str
    names: str
    suffixes: tuple[str, ...]
    example: str
    measure: Callable[[bytes], tuple[tuple[int, int], float | None]]
    readers: int


# Reading and hashing leave Python's lock to others; more threads only make a disk seek, and each holds a whole file.
OF_PICTURES = SampleKind(
    "picture", "pictures", pictures.SUFFIXES, ".jpg", lambda data: (pictures.upright_size(data), None), 16
)
OF_VIDEOS = SampleKind("video", "videos", videos.SUFFIXES, ".mp4", videos.measure, 4)


def kind_of(section: DataSection) -> SampleKind:
    """What ``section.captioned`` is to hold: teachers of videos alone have a number of frames."""
    return OF_PICTURES if section.frames is None else OF_VIDEOS
