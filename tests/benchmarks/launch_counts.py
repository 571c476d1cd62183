"""What the host asks of a GPU around the networks, counted on a GPU that is not there. Nothing here is timed.

    python tests/benchmarks/launch_counts.py [--column NAME] [--package FOLDER] [--json FILE]

For each policy, at batch 1 in the shape of FLUX.1 at 1024²: a **rollout** from what the network gives to the next state
of a sampling, in float32, and a **packed rollout** as pipelines ask for it, whose latents are bfloat16; **stochastic**
ones, which add noise that seeds have drawn on the host; the **windows** of a segment of training, the mean velocities
from its states with their backward pass; a **segment**, which holds these, the walk to the states, the loss and the
gradient of the head's output.

``launches`` are kernels, of Triton and of torch: each call of torch that writes something on the device counts as one.
``calls`` are all calls of torch for tensors of the device, views and allocations too: the host's work. ``by`` says
which kernels they are. A run fills one column of the file, "after" unless told otherwise, and leaves the others;
``--package`` is a checkout to be counted instead of this one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from common import machine, write_json

RESULT = Path(__file__).parent / "results" / "launch-counts.json"
CHECK = Path(__file__).parents[1] / "fake_cuda" / "check.py"
PRESETS = {"flux-dev": "gm", "flux-dev-dx": "dx", "flux-dev-momentum": "momentum"}
DX_POLY = "flux-dev, policy.kind=dx-poly"
CALLS = "calls of torch"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--column", default="after")
    parser.add_argument("--package", type=Path, default=CHECK.parents[2])
    parser.add_argument("--json", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    kept = json.loads(options.json.read_text())["results"] if options.json.exists() else []
    rows = {(row["policy"], row["part"]): row for row in kept}
    for policy, launches in counted(options.package).items():
        for part, by in launches.items():
            row = rows.setdefault((policy, part), {"policy": policy, "part": part})
            calls = by.pop(CALLS)
            row[options.column] = {"launches": sum(by.values()), "calls": calls, "by": dict(sorted(by.items()))}
            print(f"{policy:10}{part:26}{row[options.column]['launches']:5} launches {calls:5} calls")
    head = {"benchmark": "launch-counts", **machine(torch.device("cpu"))}
    write_json(options.json, head | {"results": list(rows.values())})


def counted(package: Path) -> dict[str, dict[str, dict[str, int]]]:
    """Launches of the parts by the name of what makes them, for each policy, of the package in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(package)}
    done = subprocess.run([sys.executable, str(CHECK), *PRESETS], env=environment, capture_output=True, text=True)
    reports = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not reports:
        raise SystemExit(done.stderr)
    found = {}
    for report in reports:
        preset, first = report["case"].split(", ")[:2]
        policy = "dx-poly" if report["case"].startswith(DX_POLY) else PRESETS[preset] if first == "batch 1" else None
        if policy is not None:
            found[policy] = report["launches"]
    return found


if __name__ == "__main__":
    main()
