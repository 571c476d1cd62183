"""The GM kernels by their machine code, and by a roofline for GPUs that need not be there. Nothing here is measured.

python tests/benchmarks/kernel_code.py [--small] [--json FILE]

**Code.** Every kernel is compiled as a launch would and disassembled. A row holds registers, spilled bytes and what one
round of its loops over substeps issues: forward has one loop; backward two, which walk the rollout and walk back.

**Roofline.** P positions, each of L lanes that hold K' of K components and C' of C channels; n substeps, which issue I
instructions of a warp (all loops added), A of them on the float32 lanes, X on the shuffles' and E on the special
function unit; parameters of e bytes, states of 4. A GPU has M multiprocessors at f cycles a second. Seconds:

    issue    n P L I / 32 / (4 M f)     each of four schedulers issues one instruction a cycle
    fp32     n P L A / (128 M f)
    shuffle  n P L X / (32 M f)
    special  n P L E / (16 M f)
    memory   bytes / bandwidth, where bytes are
             P (e K (C + 1) + 12 C)             forward: x, x_s and out beside the parameters
             P (2 e K (C + 1) + 16 C + 8 n C)   backward: gradients as well, and the path both ways

The largest is the bound, and the least that a launch takes. The most that is expected is that nothing hides memory, and
that of N = P L / (128 M) warps a scheduler as many as registers allow, W of them, take turns:

    most     memory + n ceil(N / W) max(W I, I + latency) / f
    latency  4 (C' + 2 K' + 8) + 50 + 25 (log2 of lanes over channels + 2 log2 of lanes over components)

for the chain of additions, maxima and two special functions that a velocity waits for, at 4 cycles an addition and 25 a
special function or a shuffle; backward, which has it twice, adds 4 (2 K' + 4) + 50 log2 of lanes over components. Rates
are those of compute capability 9.0 in the CUDA C++ Programming Guide; latencies and the clock, a tenth below the
highest, are assumed. The time of the launch itself, some 3 microseconds, is not in it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import ceil, log2
from pathlib import Path

import torch
from common import machine, write_json
from compiled_kernels import Code, code_of, compiled

from piflow_cli.core.kernels import gm_triton, gm_triton_kernels

RESULT = Path(__file__).parent / "results" / "kernel-code.json"
SHAPES = {"flux-dev, qwen-image, z-image": (8, 16), "flux2-dev": (8, 32), "imagenet": (32, 4), "digits": (8, 1)}
BYTES = {"bf16": 2, "fp32": 4}
CAPABILITIES = (80, 90, 100)
REGISTERS = 65536  # of a multiprocessor, given out in eights to each thread of a warp
WARPS_A_PROGRAM = gm_triton.THREADS // gm_triton.WARP


@dataclass(frozen=True)
class Gpu:
    """Multiprocessors, cycles a second under load, and bytes a second of its memory."""

    name: str
    multiprocessors: int
    clock: float
    bandwidth: float


@dataclass(frozen=True)
class Work:
    """A launch: positions of all samples together, and substeps of each."""

    name: str
    shape: str
    kernel: str
    positions: int
    substeps: int


GPUS = (Gpu("H100 SXM", 132, 1.755e9, 3.35e12), Gpu("H200 SXM", 132, 1.755e9, 4.8e12))
WORKS = (
    Work("FLUX 1024², rollout", "flux-dev, qwen-image, z-image", "forward", 128 * 128, 37),
    Work("FLUX 1024², micro-window", "flux-dev, qwen-image, z-image", "backward", 128 * 128, 3),
    Work("ImageNet 256², batch 256, rollout", "imagenet", "forward", 256 * 32 * 32, 128),
    Work("ImageNet 256², batch 256, whole segment", "imagenet", "backward", 256 * 32 * 32, 128),
)


def sizes_of(kernel: str, components: int, channels: int) -> dict[str, int]:
    most = gm_triton.FORWARD_MEANS if kernel == "forward" else gm_triton.BACKWARD_MEANS
    return gm_triton.program_sizes(components, channels, most)


def code(kernel: str, components: int, channels: int, dtype: str, capability: int) -> Code:
    """The machine code of a kernel for one leg, with ``dtype`` parameters and float32 states."""
    constants = {"DROPPED": False, **sizes_of(kernel, components, channels)}
    if kernel == "forward":
        constants |= {"LEGS": 1, "INTEGRATE": False}
    function = getattr(gm_triton_kernels, f"{kernel}_kernel")
    return code_of(compiled(function, constants, WARPS_A_PROGRAM, capability, dtype, "16"))


def code_rows(small: bool) -> Iterator[dict]:
    cases = [("digits", "forward", "fp32", 90)] if small else [
        (shape, kernel, dtype, capability)
        for shape in SHAPES
        for kernel in ("forward", "backward")
        for dtype in BYTES
        for capability in CAPABILITIES
    ]  # fmt: skip
    for shape, kernel, dtype, capability in cases:
        components, channels = SHAPES[shape]
        sizes = sizes_of(kernel, components, channels)
        found = code(kernel, components, channels, dtype, capability)
        yield {
            "shape": shape, "components": components, "channels": channels, "kernel": kernel, "dtype": dtype,
            "capability": capability, "lanes": [sizes["KLANES"], sizes["CLANES"]], **asdict(found),
        }  # fmt: skip


def roofline(work: Work, row: dict, gpu: Gpu) -> dict:
    """Microseconds by unit, and the least and the most that a launch is expected to take."""
    klanes, clanes = row["lanes"]
    components, channels, size = row["components"], row["channels"], BYTES[row["dtype"]]
    a_substep = {
        name: sum(loop[name] for loop in row["loops"]) for name in ("instructions", "arithmetic", "shuffles", "special")
    }
    threads = work.positions * klanes * clanes
    cycles = {
        "issue": threads / 128 * a_substep["instructions"],
        "fp32": threads / 128 * a_substep["arithmetic"],
        "shuffle": threads / 32 * a_substep["shuffles"],
        "special": threads / 16 * a_substep["special"],
    }
    seconds = {unit: work.substeps * count / gpu.multiprocessors / gpu.clock for unit, count in cycles.items()}
    moved = work.positions * moved_bytes(work, components, channels, size)
    seconds["memory"] = moved / gpu.bandwidth
    resident = REGISTERS // (8 * ceil(row["registers"] / 8) * gm_triton.THREADS) * WARPS_A_PROGRAM // 4
    waiting = ceil(threads / 128 / gpu.multiprocessors)
    together = min(resident, waiting)
    alone = a_substep["instructions"] + latency(row["kernel"], components, channels, klanes, clanes)
    turn = max(together * a_substep["instructions"], alone)
    most = seconds["memory"] + work.substeps * ceil(waiting / together) * turn / gpu.clock
    return {
        "work": work.name, "kernel": work.kernel, "gpu": gpu.name, "positions": work.positions,
        "substeps": work.substeps, "bytes": moved, "multiply_adds": multiply_adds(work, components, channels),
        "exponentials": threads * work.substeps * sum(loop["exponentials"] for loop in row["loops"]),
        "warps_a_scheduler": together, "microseconds": {unit: round(1e6 * took, 2) for unit, took in seconds.items()},
        "bound": max(seconds, key=seconds.__getitem__), "least_microseconds": round(1e6 * max(seconds.values()), 2),
        "most_microseconds": round(1e6 * most, 2),
    }  # fmt: skip


def moved_bytes(work: Work, components: int, channels: int, size: int) -> int:
    """Bytes of a position."""
    parameters = size * components * (channels + 1)
    if work.kernel == "forward":
        return parameters + 12 * channels
    return 2 * parameters + (16 + 8 * work.substeps) * channels


def multiply_adds(work: Work, components: int, channels: int) -> int:
    """Those without which it cannot be done: energies and mean; back, these, responses, two for gradients, a sum."""
    products = 2 if work.kernel == "forward" else 7
    return products * components * channels * work.positions * work.substeps


def latency(kernel: str, components: int, channels: int, klanes: int, clanes: int) -> float:
    """Cycles from the state of a substep to the next, all loops added, as the head of this file has them."""
    rows, columns = ceil(components / klanes), ceil(channels / clanes)
    walk = 4 * (columns + 2 * rows + 8) + 50 + 25 * (log2(clanes) + 2 * log2(klanes))
    return walk if kernel == "forward" else 2 * walk + 4 * (2 * rows + 4) + 50 * log2(klanes)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="one kernel of the digits")
    parser.add_argument("--json", type=Path, help="write the results here; what the file says of earlier kernels stays")
    options = parser.parse_args(arguments)
    rows = []
    for row in code_rows(options.small):
        rows.append(row)
        loops = ", ".join(
            f"{loop['instructions']} instructions, {loop['shuffles']} shuffles, {loop['barriers']} barriers"
            for loop in row["loops"]
        )
        print(f"{row['shape']:30s} {row['kernel']:8s} {row['dtype']} sm_{row['capability']:<3d} "
              f"{row['registers']:3d} registers {row['spilled']:3d} bytes spilled  {loops}", flush=True)  # fmt: skip
    hopper = {(row["shape"], row["kernel"]): row for row in rows if row["capability"] == 90 and row["dtype"] == "bf16"}
    times = [
        roofline(work, hopper[work.shape, work.kernel], gpu)
        for work in WORKS
        for gpu in GPUS
        if (work.shape, work.kernel) in hopper
    ]
    for time in times:
        print(f"{time['work']:40s} {time['kernel']:8s} {time['gpu']}: {time['least_microseconds']:.1f} to "
              f"{time['most_microseconds']:.1f} microseconds, bound by {time['bound']}")  # fmt: skip
    if options.json is not None:
        earlier = json.loads(options.json.read_text())["before"] if options.json.exists() else []
        content = {"benchmark": "kernel_code", **machine(torch.device("cpu")), "results": rows}
        write_json(options.json, content | {"roofline": times, "before": earlier})


if __name__ == "__main__":
    main()
