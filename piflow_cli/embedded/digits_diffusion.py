"""The loss of digits teachers that are no flow models: each in its own words, at noise levels of its own kind."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

from ..core.parameterisations.base import TIMESTEPS, Parameterisation
from ..core.parameterisations.vp import VariancePreserving
from ..core.tensors import per_sample

# Of the logarithm of the noise's deviation (Karras et al., arXiv 2206.00364, table 1).
P_MEAN, P_STD = -1.2, 1.2


def trained_levels(parameterisation: Parameterisation, uniform: torch.Tensor) -> torch.Tensor:
    """Noise levels (B,) float64 of the flow, of uniform numbers (B,): of even discrete times, or of a log-normal."""
    uniform = uniform.double()
    if isinstance(parameterisation, VariancePreserving):
        return parameterisation.log_ratios()[(uniform * TIMESTEPS).long()].sigmoid()
    return (P_MEAN + P_STD * math.sqrt(2) * torch.erfinv(2 * uniform - 1)).sigmoid()


def diffusion_loss(
    model: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    x_0: torch.Tensor,
    labels: torch.Tensor,
    uniform: torch.Tensor,
    noise: torch.Tensor,
    parameterisation: Parameterisation,
) -> torch.Tensor:
    """Mean square of what ``model`` predicts less what is true, for data and noise (B, C, H, W) and labels (B,).

    The weights of the noise levels are those of the papers: 1 for eps and v, and for EDM's residual too.
    """
    sigma = trained_levels(parameterisation, uniform)
    spread = per_sample(sigma, x_0)
    x, affine = (1 - spread) * x_0 + spread * noise, parameterisation.affine(sigma)
    wanted = (noise - x_0 - per_sample(affine.skip, x) * x) / per_sample(affine.gain, x)
    time = (parameterisation.timestep(sigma) / TIMESTEPS).to(x.dtype)
    predicted = model(per_sample(parameterisation.input_scale(sigma), x) * x, time, labels)
    return F.mse_loss(predicted, wanted.to(predicted.device))
