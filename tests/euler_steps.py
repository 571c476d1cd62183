"""Steps of Euler through a stock pipeline, which would place them itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler


def euler_at(sigmas: Sequence[float], shift: float = 1.0) -> FlowMatchEulerDiscreteScheduler:
    """Steps from these noise levels, which ``shift`` moves, whatever a pipeline asks for."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    set_timesteps = scheduler.set_timesteps
    scheduler.set_timesteps = lambda *given, sigmas=None, mu=None, device=None, at=sigmas: set_timesteps(
        sigmas=list(at), device=device
    )
    return scheduler


def euler(steps: int, shift: float = 2.0) -> FlowMatchEulerDiscreteScheduler:
    """Steps that are even but for ``shift``."""
    return euler_at(np.linspace(1, 1 / steps, steps).tolist(), shift)
