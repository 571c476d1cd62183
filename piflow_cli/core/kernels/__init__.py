"""Fused rollouts, and the choice between them and the reference."""

from __future__ import annotations

import logging
import os
from functools import cache
from importlib.util import find_spec
from types import ModuleType

LOGGER = logging.getLogger("piflow.kernels")


def switched_off() -> bool:
    """Whether the environment asks for the reference everywhere: ``PIFLOW_KERNELS=off``."""
    return os.environ.get("PIFLOW_KERNELS", "").strip().lower() == "off"


def backend(device_type: str) -> ModuleType | None:
    """The module with GM rollouts for a kind of device, or None for the reference; the choice is logged once."""
    return _chosen(device_type, switched_off())


@cache
def _chosen(device_type: str, off: bool) -> ModuleType | None:
    if off:
        LOGGER.info("rollouts on %s: reference loop (PIFLOW_KERNELS=off)", device_type)
        return None
    if device_type == "cpu":
        LOGGER.info("rollouts on cpu: blocked PyTorch (no GPU in use)")
        from . import gm_cpu

        return gm_cpu
    if device_type != "cuda":
        LOGGER.info("rollouts on %s: reference loop (no fused kernel for this kind of device)", device_type)
        return None
    if find_spec("triton") is None:
        LOGGER.warning(
            "rollouts on cuda: reference loop, many times slower (Triton is not installed: pip install triton)"
        )
        return None
    LOGGER.info("rollouts on cuda: fused Triton kernels")
    from . import gm_triton

    return gm_triton
