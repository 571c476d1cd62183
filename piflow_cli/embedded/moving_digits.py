"""Videos of moving digits: a few of the shipped ones, each at a constant velocity on a canvas that wraps around."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

SIDE, FRAMES = 16, 4
# Pixels of a token each way, and of all ways that digits go: what moves by whole tokens looks to the network as before.
STEP = 4
# Of each digit. Of all 1,797 a teacher this small learns in an hour neither to draw one nor to draw it twice.
PICTURES = 8
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Rows and columns a frame. Each is one word, so that all captions have as many.
DIRECTIONS = {
    "north": (-STEP, 0),
    "northeast": (-STEP, STEP),
    "east": (0, STEP),
    "southeast": (STEP, STEP),
    "south": (STEP, 0),
    "southwest": (STEP, -STEP),
    "west": (0, -STEP),
    "northwest": (-STEP, -STEP),
}
BACKGROUND = -1.0


def captions() -> list[str]:
    """All captions, digit by digit, each with its directions in order."""
    return [f"a {digit} moving {direction}" for digit in DIGITS for direction in DIRECTIONS]


def velocities_of_captions() -> Tensor:
    """The velocity (N, 2) int64 that each of the captions tells, in rows and columns a frame."""
    return torch.tensor(list(DIRECTIONS.values())).repeat(len(DIGITS), 1)


def moving(pictures: Tensor, start: Tensor, velocity: Tensor) -> Tensor:
    """Videos (B, 1, FRAMES, SIDE, SIDE) of ``pictures`` (B, 1, 8, 8), whose upper left pixel begins at ``start``.

    ``start`` and ``velocity`` (B, 2) int64 are in rows and columns, and columns and rows a frame; frame t is the first
    one rolled by t times the velocity.
    """
    margin = SIDE - pictures.shape[-1]
    canvas = F.pad(pictures[:, 0], (0, margin, 0, margin), value=BACKGROUND)
    device = canvas.device
    offsets = start[:, None] + torch.arange(FRAMES, device=device)[None, :, None] * velocity[:, None]
    rows, columns = ((torch.arange(SIDE, device=device) - offsets[..., axis, None]) % SIDE for axis in (0, 1))
    batch = torch.arange(len(canvas), device=device)[:, None, None, None]
    return canvas[batch, rows[..., :, None], columns[..., None, :]].unsqueeze(1)


def pictures_of(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The first PICTURES of each digit among ``images`` (N, 1, 8, 8) and ``labels`` (N,), digit by digit."""
    first = torch.cat([torch.nonzero(labels == digit)[:PICTURES, 0] for digit in range(len(DIGITS))])
    return images[first], labels[first]


def draw(images: Tensor, labels: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Videos (count, 1, FRAMES, SIDE, SIDE) and the places (count,) of their captions among :func:`captions`.

    ``images`` (N, 1, 8, 8) in [-1, 1] and ``labels`` (N,): the digits, which are drawn evenly, as are directions. All
    begin in one place: of videos that begin anywhere a teacher this small draws the digit and not the way. All tensors
    are on the device of ``generator``.
    """
    random = partial(torch.randint, generator=generator, device=generator.device)
    chosen, direction = random(len(images), (count,)), random(len(DIRECTIONS), (count,))
    start = torch.full((count, 2), STEP, device=generator.device)
    velocity = torch.tensor(list(DIRECTIONS.values()), device=generator.device)[direction]
    return moving(images[chosen], start, velocity), labels[chosen] * len(DIRECTIONS) + direction


def velocities(videos: Tensor) -> Tensor:
    """Velocities (B, F - 1, 2) int64 between the frames of videos (B, C, F, H, W), in rows and columns a frame.

    They are where the circular cross-correlation of a frame and the next one is largest, of all channels together:
    where the next one is the first one rolled, that is the roll, by the inequality of Cauchy and Schwarz. Of H rows
    velocities are from -H / 2, and below H / 2.
    """
    spectrum = torch.fft.fft2(videos.double())
    correlation = torch.fft.ifft2(spectrum[:, :, 1:] * spectrum[:, :, :-1].conj()).real.sum(dim=1)
    sides = torch.tensor(videos.shape[-2:])
    peak = correlation.flatten(2).argmax(dim=-1)
    found = torch.stack([peak // sides[1], peak % sides[1]], dim=-1)
    return (found + sides // 2) % sides - sides // 2
