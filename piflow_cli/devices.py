"""The device a command runs on."""

from __future__ import annotations

import torch

from .errors import UsageError


def choose_device(name: str) -> torch.device:
    """``auto`` takes CUDA, then MPS, then the CPU; raises UsageError for a device this machine lacks."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"'{name}' is not a device", "choose auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        reason = "this torch was built without CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
        raise UsageError(f"--device {name}: {reason}", "use --device cpu, or install a CUDA build of torch")
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise UsageError(
            f"--device {name}: there are {torch.cuda.device_count()} CUDA devices", "devices are counted from 0: --device cuda:0"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps: torch sees no MPS device", "use --device cpu")
    return device
