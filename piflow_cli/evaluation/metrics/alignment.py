"""The distance of a student's pictures from its teacher's fine solution of the same noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ..frames import by_frame
from ..rows import Row
from .perceptual import open_lpips, why_no_lpips

if TYPE_CHECKING:
    from ..measuring import Measuring

# Pictures are in [-1, 1].
PEAK = 2.0

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""Two batches of pictures (B, 1 or 3, H, W) → perceptual distances (B,)."""


def alignments(measuring: Measuring) -> Iterator[Row]:
    opened = measuring.compared.opened
    perceptual = open_lpips(opened.device)
    if perceptual is None and measuring.request.asks("alignment"):
        measuring.note(f"no LPIPS: {why_no_lpips()}")
    for candidate in measuring.candidates:
        # The fine solution may have a row against data; it has no distance to itself.
        if candidate.identity == measuring.fine.identity:
            continue
        found = alignment(measuring.pairs(candidate), opened.decode, perceptual)
        for number, value in {"mse": found.mse, "psnr": found.psnr, "lpips": found.lpips}.items():
            if value is not None:
                yield measuring.row(candidate, number, value, found.count, reference=measuring.fine_name)


@dataclass(frozen=True)
class Alignment:
    """Means over ``count`` pictures: mean square per number of the states, PSNR in dB and LPIPS of pictures.

    ``psnr`` is of pictures clipped to [-1, 1], one by one, as viewers see them; infinite where a picture is matched
    exactly. ``lpips`` is None where its weights are not at hand. Those of a video are means over its frames.
    """

    count: int
    mse: float
    psnr: float
    lpips: float | None


def alignment(
    pairs: Iterable[tuple[Tensor, Tensor]], decode: Callable[[Tensor], Tensor], perceptual: Perceptual | None = None
) -> Alignment:
    """Distances of ``pairs`` of states (B, C, *S), student's and teacher's, batch by batch.

    ``decode`` turns states into pictures (B, 1 or 3, H, W), or videos (B, 3, F, H, W), in [-1, 1]; neither has to be
    clipped.
    """
    count, squares, decibels, perceived = 0, 0.0, 0.0, 0.0
    for ours, fine in pairs:
        count += len(ours)
        squares += (ours.double() - fine.double()).square().flatten(1).mean(dim=1).sum().item()
        pictures = [decode(states).float().clamp(-1, 1) for states in (ours, fine)]
        decibels += by_frame(psnr, *pictures).sum().item()
        if perceptual is not None:
            perceived += by_frame(perceptual, *pictures).sum().item()
    return Alignment(count, squares / count, decibels / count, None if perceptual is None else perceived / count)


def psnr(ours: Tensor, theirs: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (B,) in dB of pictures (B, C, H, W) in [-1, 1], 10 log10(peak^2 / mean square)."""
    error = (ours.double() - theirs.double()).square().flatten(1).mean(dim=1)
    return 20 * math.log10(PEAK) - 10 * error.log10()
