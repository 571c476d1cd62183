"""Number formats, kernels, a rollout against the reference, and a step of training, on the device of a run."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .findings import Finding, broken, missing, works

if TYPE_CHECKING:
    import torch

    from ..core.policies.gmflow import GMFlowPolicy

# Of the largest value; float32 alone is a hundred times as near.
CLOSE = 1e-4
NATIVE_BF16 = 8  # the first major capability that computes in it
SETTINGS = ["optimisation.batch_size=8", "optimisation.device_batch_size=8", "output.tracker=none"]


def _device() -> torch.device:
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


CUDA_TORCH = "install the torch that is built for this GPU: pip install -U torch"


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

    device = _device()
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


def rollout() -> Finding:
    """A rollout and the gradient of a mean velocity, as a run computes them, against the reference in float64."""
    from ..core import reference
    from ..core import rollout as front

    policy, device = _policy(), _device()
    exact = _walk(reference, policy)
    single = replace(
        policy,
        raw_src=policy.raw_src.to(device),
        **{name: getattr(policy, name).float().to(device) for name in ("means", "logweights", "logstds", "x_src")},
    )
    found = _walk(front, single)
    error = max(((one.cpu() - other).abs().max() / other.abs().max()).item() for one, other in zip(found, exact))
    said, facts = f"on {device.type} it is within {error:.0e} of the reference", {"error": error, "device": str(device)}
    if not error < CLOSE:
        return broken(said, "export PIFLOW_KERNELS=off, and report it with piflow --version --json", facts)
    return works(said, facts)


def _policy() -> GMFlowPolicy:
    """A mixture of 8 components for 16 channels, as those of FLUX students are, in float64."""
    import torch

    from ..core.policies.gmflow import GMFlowPolicy

    draw = torch.Generator().manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=draw, dtype=torch.float64)

    return GMFlowPolicy(
        means=normal(1, 8, 16, 6, 6),
        logweights=normal(1, 8, 1, 6, 6),
        logstds=torch.full((1,), -2.0, dtype=torch.float64),
        x_src=normal(1, 16, 6, 6),
        raw_src=torch.ones(1, dtype=torch.float64),
        shift=3.2,
    )


def _walk(module, policy: GMFlowPolicy) -> list[torch.Tensor]:
    """The state after a quarter of the way, the mean velocity of three substeps from there, its gradient."""
    import torch

    start, middle = policy.raw_src, policy.raw_src * 0.75
    with torch.no_grad():
        state = module.rollout(policy, policy.x_src, start, middle)
    means = policy.means.detach().requires_grad_()
    velocity = module.mean_velocity(replace(policy, means=means), state, middle, middle - 3 / 128)
    (gradient,) = torch.autograd.grad(velocity.square().sum(), means)
    return [state, velocity.detach(), gradient]


def step() -> Finding:
    """One step of the shipped digits recipe; nothing of it is kept."""
    from ..console import SILENT
    from ..presets.resolve import resolve
    from ..training.loop import take_pending, train_step
    from ..training.opening import open_session

    device = _device()
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(resolve("digits", None, SETTINGS, {}), Path(folder), str(device), SILENT)
        train_step(session)
    (row,) = take_pending(session)
    facts = {"device": str(device), "loss": row["loss"], "gradient_norm": row["gradient_norm"]}
    if row["skipped"]:
        return broken(f"a step of digits on {device.type} has no finite gradients", None, facts)
    return works(f"a step of digits on {device.type}: loss {row['loss']:.3f}", facts)
