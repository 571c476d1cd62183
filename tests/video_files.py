"""Tiny videos: GIFs of grey frames, which keep their values, and folders of them with captions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CAPTIONS = ("a fox", "no cat", "red")


def gif(values: Sequence[int], milliseconds: int | Sequence[int] = 100, size: tuple[int, int] = (8, 6)) -> bytes:
    """A GIF with a frame of each grey value, which is shown so long."""
    return animated([Image.new("L", size, value) for value in values], milliseconds)


def noisy_gif(frames: int, milliseconds: int = 100, size: tuple[int, int] = (48, 32), seed: int = 0) -> bytes:
    """A GIF of grey noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, size[1], size[0]), np.uint8)
    return animated([Image.fromarray(frame) for frame in pixels], milliseconds)


def animated(frames: Sequence[Image.Image], milliseconds: int | Sequence[int]) -> bytes:
    content = io.BytesIO()
    told = milliseconds if isinstance(milliseconds, int) else list(milliseconds)
    frames[0].save(content, "GIF", save_all=True, append_images=list(frames[1:]), duration=told)
    return content.getvalue()


def captioned_videos(folder: Path, seconds: float = 1.2) -> Path:
    """Three videos of noise, ten frames a second, each with its caption beside it: two wide ones and a square."""
    folder.mkdir(parents=True)
    for number, caption in enumerate(CAPTIONS):
        size = (32, 32) if number == 2 else (48, 32)
        (folder / f"{number}.gif").write_bytes(noisy_gif(round(10 * seconds), size=size, seed=number))
        (folder / f"{number}.txt").write_text(caption)
    return folder
