"""Number formats, a launch of Triton, and a step of training, on the device of a run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .findings import Finding, broken, missing, works

if TYPE_CHECKING:
    import torch

CUDA_TORCH = "install the torch that is built for this GPU: pip install -U torch"
NATIVE_BF16 = 8  # the first major capability that computes in it
SETTINGS = ["optimisation.batch_size=8", "optimisation.device_batch_size=8", "output.tracker=none"]


def chosen_device() -> torch.device:
    """The device that a run takes where none is named."""
    from ..system.devices import choose_device

    return choose_device("auto")


def formats() -> Finding:
    """A product in bfloat16, and fp8 as weights are stored in it, on every device of a run."""
    import torch

    devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())] or [torch.device("cpu")]
    wrong = [str(device) for device in devices if not (_multiplies_in_bf16(device) and _stores_fp8(device))]
    if wrong:
        return broken(f"bf16 or fp8 gives wrong numbers on {', '.join(wrong)}", CUDA_TORCH)
    old = [device for device in devices if device.type == "cuda" and _is_old(device)]
    if old:
        said = f"bf16 and fp8 work, but {', '.join(map(str, old))} computes bf16 slowly (below Ampere)"
        return works(said, {"bf16": "emulated", "fp8": True})
    return works("bf16 computes, and fp8 stores weights", {"bf16": "native", "fp8": True})


def _multiplies_in_bf16(device: torch.device) -> bool:
    import torch

    ones = torch.ones(16, 16, dtype=torch.bfloat16, device=device)
    return bool((ones @ ones == 16).all())


def _stores_fp8(device: torch.device) -> bool:
    import torch

    stored = torch.tensor([0.5, -3.0, 240.0], device=device).to(torch.float8_e4m3fn)
    return stored.to(torch.bfloat16).tolist() == [0.5, -3.0, 240.0]


def _is_old(device: torch.device) -> bool:
    import torch

    return torch.cuda.get_device_capability(device)[0] < NATIVE_BF16


def kernels() -> Finding:
    """Triton, and one launch of it on the device of a run."""
    from ..core.kernels import switched_off
    from ..core.kernels.trial import launch_fault

    device = chosen_device()
    if switched_off():
        return missing(
            "PIFLOW_KERNELS=off asks for the reference loop, which is many times slower", "unset PIFLOW_KERNELS"
        )
    if device.type == "cpu":
        return missing("Triton needs a GPU; on the CPU rollouts take blocks of PyTorch")
    fault = launch_fault(device)
    if fault is None:
        return works("Triton launches; rollouts are fused kernels")
    # The fault says what is to be installed; without Triton, which nothing else needs, rollouts are slow and right.
    found = missing if fault.startswith("Triton is not installed") else broken
    return found(f"rollouts take the reference loop, many times slower: {fault}")


def step() -> Finding:
    """One step of the shipped digits recipe; nothing of it is kept."""
    from ..console import SILENT
    from ..presets.resolve import resolve
    from ..training.loop import train_step
    from ..training.opening import open_session
    from ..training.rows import take_pending

    device = chosen_device()
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(resolve("digits", None, SETTINGS, {}), Path(folder), str(device), SILENT)
        train_step(session)
    (row,) = take_pending(session)
    facts = {"device": str(device), "loss": row["loss"], "gradient_norm": row["gradient_norm"]}
    if row["skipped"]:
        return broken(f"a step of digits on {device.type} has no finite gradients", None, facts)
    return works(f"a step of digits on {device.type}: loss {row['loss']:.3f}", facts)
