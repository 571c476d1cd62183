"""The optimiser and its schedule."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from ..console import Console
    from ..presets.schema import OptimisationSection, Preset


ADAMW, ADAMW_8BIT = "adamw", "adamw8bit"
# The entry of its state in which each keeps the first moments, and how it is called in messages.
FIRST_MOMENTS = {"exp_avg": "plain AdamW", "state1": "8-bit AdamW"}
LACKING = 'bitsandbytes is not installed: pip install "piflow[lowvram]"'


def usable_optimizer(asked: str, device: torch.device, sharded: bool = False) -> tuple[str, str | None]:
    """The optimiser that a run gets that asks for ``asked``, and why it is another one; None where it is not.

    ``sharded``: processes share the parameters out.
    """
    if asked != ADAMW_8BIT:
        return asked, None
    if sharded:
        return ADAMW, "8-bit AdamW takes no weights that processes share out"
    if importlib.util.find_spec("bitsandbytes") is None:
        return ADAMW, LACKING
    if device.type != "cuda":
        return ADAMW, "8-bit AdamW needs a CUDA device"
    return asked, None


def with_usable_optimizer(preset: Preset, device: torch.device, sharded: bool = False) -> Preset:
    """``preset`` with the optimiser that its run gets."""
    used, _ = usable_optimizer(preset.optimisation.optimizer, device, sharded)
    return replace(preset, optimisation=replace(preset.optimisation, optimizer=used))


def make_optimizer(
    named: Iterable[tuple[str, nn.Parameter]],
    slow: Collection[str],
    settings: OptimisationSection,
    device: torch.device,
    console: Console,
    sharded: bool = False,
) -> torch.optim.Optimizer:
    """AdamW over parameters by name, with 8-bit moments where they are asked for; says why where they cannot be had.

    ``sharded``: processes share the parameters out.
    Each group has its ``share`` of the learning rate: layers called as one of ``slow`` have the share of log-gammas.
    """
    parameters = _groups(named, slow, settings.gamma_learning_rate)
    options: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": settings.betas,
        "weight_decay": settings.weight_decay,
    }
    used, reason = usable_optimizer(settings.optimizer, device, sharded)
    if reason is not None:
        console.say(f"optimiser: plain AdamW, since {reason}")
    if used == ADAMW_8BIT:
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(parameters, **options)
    return torch.optim.AdamW(parameters, **options, fused=device.type in ("cpu", "cuda"))


def first_moments(optimizer: torch.optim.Optimizer) -> str:
    """That of FIRST_MOMENTS which ``optimizer`` has, as accelerate prepared it or not."""
    plain = isinstance(getattr(optimizer, "optimizer", optimizer), torch.optim.AdamW)
    return "exp_avg" if plain else "state1"


def _groups(named: Iterable[tuple[str, nn.Parameter]], slow: Collection[str], slow_share: float) -> list[dict]:
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    for name, value in named:
        share = slow_share if any(layer in slow for layer in name.split(".")) else 1.0
        groups.setdefault(share, []).append(value)
    return [{"params": values, "share": share} for share, values in groups.items()]


@dataclass(frozen=True)
class Stretch:
    """From iteration ``start`` on, the schedule runs from ``progress`` (0 to 1) to 1 at the iteration ``end``."""

    start: int
    progress: float
    end: int


def whole_schedule(settings: OptimisationSection) -> Stretch:
    """The schedule of a run whose length does not change."""
    return Stretch(settings.warmup, 0.0, settings.iterations)


def learning_rate(iteration: int, settings: OptimisationSection, stretches: Sequence[Stretch] = ()) -> float:
    """Linear warm-up from 1/warmup of the rate; then constant, or a cosine that would reach zero at ``iterations``.

    ``stretches``: how the cosine goes where its length has changed on the way, which :func:`progress_at` reads.
    """
    if iteration < settings.warmup:
        return settings.learning_rate * (iteration + 1) / settings.warmup
    if settings.schedule == "constant":
        return settings.learning_rate
    done = progress_at(iteration, stretches if stretches else (whole_schedule(settings),))
    return settings.learning_rate * (1 + math.cos(math.pi * done)) / 2


def progress_at(iteration: int, stretches: Sequence[Stretch]) -> float:
    """The part of the schedule that lies before ``iteration``: the last stretch that has begun says it."""
    stretch = next((one for one in reversed(stretches) if one.start <= iteration), stretches[0])
    if iteration <= stretch.start:
        return stretch.progress
    return stretch.progress + (1 - stretch.progress) * ((iteration - stretch.start) / (stretch.end - stretch.start))
