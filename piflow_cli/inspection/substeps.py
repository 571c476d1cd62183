"""Convergence in substeps: coarser and finer rollouts against one that is exact for all purposes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..core.rollout import rollout
from ..sampling.trajectory import PolicyPath, times
from .tensors import in_float64, mean_square, thin

SUBSTEPS = (8, 16, 32, 64, 128, 256)
FINE_SUBSTEPS = 2048
ENOUGH = 0.01


class Convergence(NamedTuple):
    """Mean squares over the positions of :func:`~piflow_cli.inspection.tensors.thin`, all of one segment.

    ``error`` (B, len(SUBSTEPS)): of the end of a rollout with so many substeps per unit of raw time, in the precision
    of sampling, minus the end of the fine one in float64; ``distance`` (B,): of the fine end minus the source.
    """

    error: Tensor
    distance: Tensor


def convergence(path: PolicyPath) -> Convergence:
    """Errors of rollouts with SUBSTEPS against an extrapolated one of FINE_SUBSTEPS, both on the CPU.

    The fine end is 2 x(h) - x(2h) (Richardson): Euler's error is linear in the step, and what is left is of second
    order.
    """
    policy = thin(path.policy)
    exact = in_float64(policy)
    finest, half = (_end(exact, path, substeps) for substeps in (FINE_SUBSTEPS, FINE_SUBSTEPS // 2))
    fine = 2 * finest - half
    errors = [_end(policy, path, substeps).cpu().double() - fine for substeps in SUBSTEPS]
    return Convergence(torch.stack([mean_square(error) for error in errors], dim=1), mean_square(fine - exact.x_src))


def _end(policy, path: PolicyPath, substeps: int) -> Tensor:
    x = policy.x_src
    return rollout(policy, x, times(path.raws[0], x), times(path.raw_end, x), substeps=substeps)


def relative_errors(found: Convergence) -> list[float]:
    """Root mean square error over root mean square distance of a whole batch, by SUBSTEPS."""
    distance = found.distance.mean().clamp(min=1e-30)
    return (found.error.mean(dim=0) / distance).sqrt().tolist()


def enough(errors: list[float]) -> int | None:
    """The fewest of SUBSTEPS from which on the relative error stays at or below ENOUGH; None where 256 are too few."""
    fits = None
    for substeps, error in zip(reversed(SUBSTEPS), reversed(errors)):
        if not error <= ENOUGH:
            break
        fits = substeps
    return fits
