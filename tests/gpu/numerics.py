"""Rollouts, mean velocities and gradients of every policy on a device, against the reference in float64.

    python tests/gpu/numerics.py [--device cuda|cpu] [--small] [--only TEXT] [--json FILE]

Each row has the largest error over the largest value, and that of the reference in the dtype of the policy. States of
the first and last samples are compared: where numbers of 32 bits would overflow, the last is the one that shows it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import places
import torch
from torch import Tensor

places.share()
from common import machine, write_json  # noqa: E402
from rollout import worst  # noqa: E402

from piflow_cli.core import kernels, reference, rollout  # noqa: E402
from piflow_cli.core.decoding import PolicyDecoder  # noqa: E402
from piflow_cli.core.parameterisations.kinds import FLOW, parameterisation_of  # noqa: E402
from piflow_cli.core.policies.base import Policy  # noqa: E402
from piflow_cli.core.policies.kinds import policy_class  # noqa: E402
from piflow_cli.core.timegrid import TimeGrid  # noqa: E402

WINDOW, STOPS = 3, 4
SUBSTEPS = 128
LOGSTD = -2.0
# Errors that are no fault: twice the reference's, and a few of the last digits of what is compared.
ALLOWED, DIGITS = 2.0, 4.0


@dataclass(frozen=True)
class Case:
    """Policies as ``presets`` train them, of states ``shape`` (B, C, *S); ``patch``: as a head emits packed tokens."""

    name: str
    shape: tuple[int, ...]
    kind: str
    parts: int
    shift: float
    segment: float
    presets: tuple[str, ...] = ()
    dtype: torch.dtype = torch.float32
    patch: int | None = None
    large: bool = False
    predicts: str = FLOW

    @property
    def decoder(self) -> PolicyDecoder:
        return PolicyDecoder(self.kind, self.parts, self.shift, self.segment, self.patch, self.predicts)


BF16 = torch.bfloat16
FLUX, FLUX2, IMAGENET = (16, 128, 128), (32, 128, 128), (4, 32, 32)
SD15, SDXL, SD_PREDICTS = (4, 64, 64), (4, 128, 128), "epsilon-scaled-linear"
# Raw times at which teachers begin that are no flow models.
SD = TimeGrid(1, shift=3.2, noisiest=parameterisation_of(SD_PREDICTS).noisiest).start
DDPM = TimeGrid(1, noisiest=parameterisation_of("epsilon-linear").noisiest).start
EDM = TimeGrid(1, noisiest=parameterisation_of("edm").noisiest).start
QUARTER = 1 / 3.5  # the first of four segments, the last of which is half as long
CASES = (
    Case(
        "FLUX, Qwen and Z-Image",
        (1, *FLUX),
        "gm",
        8,
        3.2,
        QUARTER,
        (
            "flux-dev",
            "flux-dev-24gb",
            "flux-kontext",
            "qwen-image",
            "qwen-image-24gb",
            "qwen-image-2512",
            "qwen-image-edit-2511",
            "krea2",
            "longcat-image",
            "ovis-image",
            "z-image",
            "z-image-turbo",
        ),
    ),
    Case("ERNIE-Image", (1, *FLUX2), "gm", 8, 4.0, QUARTER, ("ernie-image",)),
    Case("Chroma, Stable Diffusion 3.5 and Sana", (1, *FLUX), "gm", 8, 3.0, QUARTER, ("chroma", "sd35", "sana")),
    Case("the same in bf16", (1, *FLUX), "gm", 8, 3.2, QUARTER, dtype=BF16),
    Case("the same, batch 4", (4, *FLUX), "gm", 8, 3.2, QUARTER),
    Case("the same in packed tokens", (1, 16, 4096, 4), "gm", 8, 3.2, QUARTER, dtype=BF16, patch=4),
    Case("FLUX at 8 evaluations", (1, *FLUX), "gm", 8, 3.2, 1 / 7.5, ("flux-dev-8nfe",), dtype=BF16),
    Case(
        "FLUX.2",
        (1, *FLUX2),
        "gm",
        8,
        3.2,
        QUARTER,
        ("flux2-dev", "flux2-dev-edit", "flux2-klein", "flux2-klein-edit"),
    ),
    Case("FLUX.3", (1, *FLUX2), "gm", 8, 6.93, QUARTER, ("flux3-klein",)),
    Case("FLUX.2 in bf16", (1, *FLUX2), "gm", 8, 3.2, QUARTER, dtype=BF16),
    Case("ImageNet", (256, *IMAGENET), "gm", 32, 1.0, 1.0, ("imagenet-fm", "imagenet-repa")),
    Case("ImageNet in bf16, batch 1", (1, *IMAGENET), "gm", 32, 1.0, 1.0, dtype=BF16),
    Case("ImageNet at 2 evaluations", (3, *IMAGENET), "gm", 32, 1.0, 0.5, ("imagenet-repa-2nfe",)),
    Case("digits", (64, 1, 8, 8), "gm", 8, 1.0, 1.0, ("digits",)),
    Case("emoji", (8, 8, 16, 16), "gm", 8, 1.5, QUARTER, ("emoji",)),
    Case("emoji at 1 evaluation", (8, 8, 16, 16), "gm", 8, 1.5, 1.0, ("emoji-1nfe",)),
    Case("DX of emoji", (8, 8, 16, 16), "dx", 10, 1.5, QUARTER, ("emoji-dx",)),
    Case("momentum of emoji", (8, 8, 16, 16), "momentum", 16, 1.5, 0.5, ("emoji-momentum",)),
    Case("ImageNet's DDPM", (3, *IMAGENET), "gm", 32, 1.0, DDPM, ("imagenet-dit",), predicts="epsilon-linear"),
    Case("ImageNet in pixels", (16, 3, 64, 64), "gm", 8, 1.0, EDM, ("imagenet64",), predicts="edm"),
    Case("Stable Diffusion XL", (1, *SDXL), "gm", 8, 3.2, SD * QUARTER, ("sdxl",), predicts=SD_PREDICTS),
    Case("Stable Diffusion 1.5", (1, *SD15), "gm", 8, 3.2, SD * QUARTER, ("sd15",), predicts=SD_PREDICTS),
    Case("video", (1, 16, 21, 60, 104), "gm", 8, 3.0, QUARTER, ("wan21-1.3b",), dtype=BF16),
    Case("video of two networks", (1, 16, 21, 60, 104), "gm", 8, 9.3333, QUARTER, ("wan22-a14b",), dtype=BF16),
    Case("video of Wan 2.2 TI2V", (1, 48, 31, 44, 80), "gm", 8, 5.0, QUARTER, ("wan22-5b",), dtype=BF16),
    Case("video of LTX-Video", (1, 128, 21, 16, 22), "gm", 8, 18.3, QUARTER, ("ltx-video",), dtype=BF16),
    Case("DX of Kandinsky 6", (1, 16, 31, 60, 108), "dx", 10, 5.0, 1 / 9.5, ("kandinsky6",), dtype=BF16),
    Case("DX of FLUX", (1, *FLUX), "dx", 10, 3.2, QUARTER, ("flux-dev-dx", "qwen-image-dx")),
    Case("DX of FLUX in bf16, batch 3", (3, *FLUX), "dx", 10, 3.2, QUARTER, dtype=BF16),
    Case("polynomial DX of FLUX", (2, *FLUX), "dx-poly", 4, 3.2, QUARTER),
    Case("DX of video", (1, 16, 21, 60, 104), "dx", 10, 3.2, QUARTER),
    Case("momentum of FLUX", (1, *FLUX), "momentum", 16, 3.2, 0.5, ("flux-dev-momentum", "qwen-image-momentum")),
    Case("momentum of FLUX in packed tokens", (2, 16, 4096, 4), "momentum", 16, 3.2, 0.5, dtype=BF16, patch=4),
    Case("offsets beyond 2^31", (1056, *FLUX), "gm", 8, 3.2, QUARTER, dtype=BF16, large=True),
)  # fmt: skip


def small(case: Case) -> Case:
    """The same with a few positions."""
    space = (4, case.patch) if case.patch else tuple(min(size, 3) for size in case.shape[2:])
    return replace(case, shape=(min(case.shape[0], 3), case.shape[1], *space), large=False)


def policy_of(case: Case, device: torch.device) -> Policy:
    """A random policy as it is cut out of a head's output; its times differ from sample to sample."""
    batch, channels, *space = case.shape
    layout = policy_class(case.kind).layout(case.parts, channels)
    width = sum(1 if part is None else part[0] * part[1] * (case.patch or 1) for part in layout)
    size = (batch, width, *space) if case.patch is None else (batch, space[0], width)
    draw = torch.Generator(device).manual_seed(0)
    output = torch.empty(size, device=device, dtype=case.dtype).normal_(generator=draw)
    if layout[-1] is None:
        output.narrow(1 if case.patch is None else -1, width - 1, 1).fill_(LOGSTD)
    x = torch.empty(case.shape, device=device).normal_(generator=draw)
    raw = torch.linspace(1, 0.7, batch, dtype=torch.float64, device=device)
    policy = case.decoder.policy(output, case.decoder.pack(x), raw)
    if case.predicts == FLOW:
        return policy
    # Random noise predictions make velocities of 60 near the noise; those of a student are about 1.
    return replace(policy, means=policy.means / policy.means.float().std().to(policy.means.dtype))


def ends(policy: Policy, samples: slice, dtype: torch.dtype | None = None) -> Policy:
    """Some samples of a policy; with all of their tensors in ``dtype`` where it is given."""
    tensors = {name: getattr(policy, name)[samples] for name in (*policy.outputs, "x_src", "raw_src")}
    if dtype is not None:
        tensors = {name: value.to(torch.float64 if name == "raw_src" else dtype) for name, value in tensors.items()}
    return replace(policy, **tensors)


def answers(module, policy: Policy, segment: float, seed: Tensor) -> Iterator[tuple[str, list[Tensor]]]:
    """What a module with rollouts gives for a policy: states of four legs, a mean velocity, and its gradients."""
    source = policy.raw_src
    raws = [source - source.clamp(max=segment) * leg / STOPS for leg in range(STOPS + 1)]
    with torch.no_grad():
        states = module.rollout_through(policy, policy.x_src, raws, substeps=SUBSTEPS)
    yield "states", states
    start = raws[1]
    end = (start - WINDOW / SUBSTEPS).clamp(min=0)
    leaves = {name: getattr(policy, name).detach().requires_grad_() for name in policy.outputs}
    state = policy.x_src.detach().clone().requires_grad_()
    # The reference needs no bound; kernels set scratch memory aside by it.
    bound = {} if module is reference else {"longest": WINDOW / SUBSTEPS}
    velocity = module.mean_velocity(replace(policy, **leaves), state, start, end, substeps=SUBSTEPS, **bound)
    yield "mean velocity", [velocity.detach()]
    wanted = {**leaves, "x": state}
    found = torch.autograd.grad(velocity, list(wanted.values()), seed.to(velocity.dtype), allow_unused=True)
    # The velocity of a policy that is exact does not depend on the state.
    yield from ((f"gradient of {name}", [value]) for name, value in zip(wanted, found) if value is not None)


def measure(case: Case, device: torch.device) -> list[dict]:
    """A row for each answer."""
    policy = policy_of(case, device)
    batch = case.shape[0]
    shown = slice(0, batch, max(1, batch - 1))
    seed = torch.empty(case.shape, device=device).normal_(generator=torch.Generator(device).manual_seed(1))
    exact = answers(reference, ends(policy, shown, torch.float64), case.segment, seed[shown])
    plain = answers(reference, ends(policy, shown), case.segment, seed[shown])
    mine = answers(rollout, policy, case.segment, seed)
    rows = []
    for (what, truth), (_, allowed), (_, found) in zip(exact, plain, mine, strict=True):
        shown_found = [value[shown] for value in found]
        error, limit = worst(shown_found, truth), worst(allowed, truth)
        digit = max(torch.finfo(value.dtype).eps for value in found)
        rows.append(
            {
                "case": case.name,
                "shape": list(case.shape),
                "parts": case.parts,
                "dtype": str(case.dtype).removeprefix("torch."),
                "what": what,
                "error": error,
                "reference_error": limit,
                "error_over_reference": error / limit if limit > 0 else None,
                "within": error <= ALLOWED * limit + DIGITS * digit,
            }
        )
    return rows


def rows_of(case: Case, device: torch.device, tiny: bool) -> list[dict]:
    """The rows of a case; of one that fails, why: the others are worth as much."""
    if case.large and device.type == "cpu":
        return [{"case": case.name, "what": "needs a GPU"}]
    begun = time.perf_counter()
    try:
        rows = measure(small(case) if tiny else case, device)
    except Exception as error:
        rows = [{"case": case.name, "what": "failed", "why": f"{type(error).__name__}: {error}", "within": False}]
    return [row | {"seconds": round(time.perf_counter() - begun, 2)} for row in rows]


def used(device: torch.device) -> dict:
    """The module with GM rollouts that was asked: a reference that is compared with itself is always right."""
    backend = kernels.backend(device)
    return {"kernels": "reference" if backend is None else backend.__name__.rpartition(".")[2]}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="a few positions: does it run at all")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--json", type=Path, help="write the rows here after each case")
    options = parser.parse_args(arguments)
    device, rows = torch.device(options.device), []
    for case in CASES:
        if options.only not in case.name:
            continue
        rows += (made := rows_of(case, device, options.small))
        for row in made:
            print(json.dumps(row), flush=True)
        if options.json is not None:
            write_json(options.json, {"benchmark": "numerics", **machine(device), **used(device), "results": rows})
        if device.type == "cuda":
            torch.cuda.empty_cache()
    fused = used(device)["kernels"] != "reference"
    return int(not (fused and all(row.get("within", True) for row in rows)))


if __name__ == "__main__":
    raise SystemExit(main())
