"""The device a command runs on."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt(3)


def choose_device(name: str) -> torch.device:
    """The device ``name``; ``auto`` takes CUDA, or else the CPU. One that has a number becomes the current one.

    Libraries put what they make by themselves on the current device, bitsandbytes its quantised weights.

    Raises UsageError for a device that this machine lacks, or that has no float64 (MPS).
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"'{name}' is not a device", "choose auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        reason = "this torch was built without CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
        raise UsageError(f"--device {name}: {reason}", "use --device cpu, or install a CUDA build of torch")
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise UsageError(
            f"--device {name}: there are {torch.cuda.device_count()} CUDA devices",
            "devices are counted from 0: --device cuda:0",
        )
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    if device.type == "mps":
        raise UsageError("--device mps: times are computed in float64, which MPS lacks", "use --device cpu")
    return device


def usable_cores() -> int:
    """CPU cores that this process may use, which a job or container may limit."""
    affinity = getattr(os, "sched_getaffinity", None)
    return (os.cpu_count() or 1) if affinity is None else len(affinity(0))


def peak_memory(device: torch.device) -> int | None:
    """The most bytes that this process has had at once: on ``device`` where that is a GPU, else in all.

    None where the system does not say.
    """
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        # Windows has none.
        return None
    # Linux counts in units of 1024 bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees, up to a gigabyte, where glibc manages it.

    By default glibc hands the activations of a step back to the system, and the next step takes them again page by
    page: on a CPU that is up to a fifth of a small model's training step.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    library.mallopt(_M_TRIM_THRESHOLD, 1 << 30)
    library.mallopt(_M_MMAP_THRESHOLD, 1 << 25)
