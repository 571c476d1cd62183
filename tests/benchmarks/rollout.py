"""Fused rollouts against the reference loop: medians, ratio and error against float64, in one process.

python tests/benchmarks/rollout.py [--device cpu|cuda] [--small] [--only TEXT] [--json FILE]

The windows of a segment, asked for in one call, are held against as many calls of one window each.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from common import machine, medians, random_grid, random_mixture, write_json
from torch import Tensor

from piflow_cli.core import reference, rollout
from piflow_cli.core.policies.base import Policy
from piflow_cli.core.policies.gmflow import GMFlowPolicy

WINDOW = 3  # substeps of the micro-window
STATES = 4  # windows of a segment


@dataclass(frozen=True)
class Case:
    """A rollout of ``substeps`` steps of 1/128 from pure noise for states ``shape`` (B, C, *S); ``parts`` is K or N."""

    name: str
    shape: tuple[int, ...]
    parts: int
    substeps: int
    shift: float
    kind: str = "gm"

    def policy(self, device: torch.device) -> Policy:
        if self.kind == "gm":
            return random_mixture(self.shape, self.parts, self.shift, device)
        return random_grid(self.shape, self.parts, self.shift, self.substeps / 128, device)


def cases(small: bool) -> list[Case]:
    if small:
        return [
            Case("small", (1, 4, 8, 8), 4, 8, 3.2),
            Case("small DX", (1, 4, 8, 8), 4, 8, 3.2, "dx"),
        ]
    mixtures = [
        Case("FLUX 1024²", (1, 16, 128, 128), 8, 37, 3.2),
        Case("FLUX 1024², batch 4", (4, 16, 128, 128), 8, 37, 3.2),
        Case("ImageNet 256²", (256, 4, 32, 32), 32, 128, 1.0),
        Case("video", (1, 16, 21, 60, 104), 8, 37, 3.2),
    ]
    points = {"ImageNet 256²": 10}
    grids = [replace(case, name=case.name + " DX", parts=points.get(case.name, 10), kind="dx") for case in mixtures]
    return mixtures + grids


def first_samples(policy: Policy, dtype: torch.dtype) -> Policy:
    """The policy of the first sample, in another dtype: enough to measure an error by."""
    names = [name for name in ("means", "logweights", "logstds", "grid", "x_src") if hasattr(policy, name)]
    tensors = {name: getattr(policy, name)[:1].to(dtype) for name in names}
    return replace(policy, raw_src=policy.raw_src[:1], **tensors)


def worst(found: list[Tensor], exact: list[Tensor]) -> float:
    return max(((one - other).abs().max() / other.abs().max()).item() for one, other in zip(found, exact))


def modes(case: Case) -> dict[str, Callable[[object, Policy], list[Tensor]]]:
    """What is timed, as functions of (module with the rollouts, policy) that return tensors to compare."""

    def times(policy: Policy, *steps: float) -> list[Tensor]:
        return [policy.raw_src - step / 128 for step in steps]

    @torch.no_grad()
    def forward(module, policy: Policy) -> list[Tensor]:
        return [module.rollout(policy, policy.x_src, *times(policy, 0, case.substeps))]

    @torch.no_grad()
    def snapshots(module, policy: Policy) -> list[Tensor]:
        stops = [round(case.substeps * part / 4) for part in range(5)]
        return module.rollout_through(policy, policy.x_src, times(policy, *stops))

    def window(module, policy: Policy) -> list[Tensor]:
        names = ("means", "logweights", "logstds") if isinstance(policy, GMFlowPolicy) else ("grid",)
        leaves = [getattr(policy, name).detach().requires_grad_() for name in names]
        bound = replace(policy, **dict(zip(names, leaves)))
        start, end = times(policy, case.substeps / 2, case.substeps / 2 + WINDOW)
        velocity = module.mean_velocity(bound, policy.x_src, start, end)
        return [velocity.detach(), *torch.autograd.grad(velocity, leaves, torch.ones_like(velocity))]

    return {"forward": forward, "forward with 4 snapshots": snapshots, "window forward and backward": window}


def at_once(case: Case, device: torch.device, rounds: int) -> dict:
    """The windows of a segment with their backward pass, in one call and in one each."""
    policy = case.policy(device)
    names = ("means", "logweights", "logstds") if isinstance(policy, GMFlowPolicy) else ("grid",)
    leaves = [getattr(policy, name).detach().requires_grad_() for name in names]
    bound = replace(policy, **dict(zip(names, leaves)))
    steps = torch.arange(STATES, device=device).unsqueeze(1) * case.substeps / (2 * STATES)
    start = policy.raw_src - steps / 128
    states, end = torch.stack([policy.x_src] * STATES), start - WINDOW / 128

    def gradients(velocities: Tensor) -> None:
        torch.autograd.grad(velocities, leaves, torch.ones_like(velocities))

    def alone() -> None:
        each = [rollout.mean_velocity(bound, *one, longest=WINDOW / 128) for one in zip(states, start, end)]
        gradients(torch.stack(each))

    together = lambda: gradients(rollout.mean_velocities(bound, states, start, end, longest=WINDOW / 128))  # noqa: E731
    times = medians({"alone": alone, "together": together}, device, rounds)
    found = {"case": case.name, "windows": STATES, **{f"{name}_ms": value for name, value in times.items()}}
    found["ratio"] = times["alone"] / times["together"]
    print("{case:24s} {windows} windows: {alone_ms:.3f} ms one by one, {together_ms:.3f} ms at once".format(**found))
    return found


def measure(case: Case, device: torch.device, rounds: int) -> list[dict]:
    policy = case.policy(device)
    rows = []
    for mode, call in modes(case).items():
        one, exact = first_samples(policy, torch.float32), first_samples(policy, torch.float64)
        truth = call(reference, exact)
        times = medians(
            {"reference": lambda: call(reference, policy), "fused": lambda: call(rollout, policy)}, device, rounds
        )
        rows.append(
            {
                "case": case.name, "shape": list(case.shape), "parts": case.parts, "substeps": case.substeps, "mode":
                mode, "reference_ms": times["reference"], "fused_ms": times["fused"], "ratio": times["reference"] /
                times["fused"], "reference_error": worst(call(reference, one), truth), "fused_error":
                worst(call(rollout, one), truth),
            }
        )  # fmt: skip
        print("{case:24s} {mode:28s} {reference_ms:11.3f} ms {fused_ms:10.3f} ms {ratio:7.1f}x  "
              "error {reference_error:.1e} {fused_error:.1e}".format(**rows[-1]), flush=True)  # fmt: skip
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="one tiny case: does it run at all")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--rounds", type=int, default=21, help="turns to take the median of")
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    rows, windows = [], []
    for case in cases(options.small):
        if options.only in case.name:
            rows += measure(case, device, options.rounds)
            windows.append(at_once(case, device, options.rounds))
    if options.json is not None:
        write_json(options.json, {"benchmark": "rollout", **machine(device), "results": rows, "windows": windows})


if __name__ == "__main__":
    main()
