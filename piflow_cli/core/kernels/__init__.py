"""Fused rollouts, and the choice between them and the reference."""

from __future__ import annotations

import logging
import os
from functools import cache
from types import ModuleType

import torch

from .trial import launch_fault

LOGGER = logging.getLogger("piflow.kernels")


def switched_off() -> bool:
    """Whether the environment asks for the reference everywhere: ``PIFLOW_KERNELS=off``."""
    return os.environ.get("PIFLOW_KERNELS", "").strip().lower() == "off"


def backend(device: torch.device | str) -> ModuleType | None:
    """The module with GM rollouts for a device, or None for the reference; the choice is made and logged once.

    On a GPU one kernel is launched on trial, and waited for.
    """
    return _chosen(torch.device(device), switched_off())


@cache
def _chosen(device: torch.device, off: bool) -> ModuleType | None:
    if off:
        LOGGER.info("rollouts on %s: reference loop (PIFLOW_KERNELS=off)", device.type)
        return None
    if device.type == "cpu":
        LOGGER.info("rollouts on cpu: blocked PyTorch (no GPU in use)")
        from . import gm_cpu

        return gm_cpu
    if device.type != "cuda":
        LOGGER.info("rollouts on %s: reference loop (no fused kernel for this kind of device)", device.type)
        return None
    if (fault := launch_fault(device)) is not None:
        LOGGER.warning("rollouts on cuda: reference loop, many times slower (%s)", fault)
        return None
    LOGGER.info("rollouts on cuda: fused Triton kernels")
    from . import gm_triton

    return gm_triton
