"""What a training iteration costs beyond its networks.

    python tests/benchmarks/step.py [--small] [--rounds N] [--json FILE]

One iteration of `piflow distill --teacher digits` (batch 128, K = 8, one NFE, 128 substeps per unit of raw time): loss,
gradients, optimiser and average, with the fused rollouts and with the reference loop, against its networks alone: one
student forward and backward, two teacher forwards. All in one process and in turn; medians and their ratios.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from common import machine, medians, write_json

from piflow_cli.console import Console, format_table
from piflow_cli.presets.resolve import resolve
from piflow_cli.training.loop import Session, train_step
from piflow_cli.training.opening import open_session


def networks_alone(session: Session) -> None:
    """The evaluations that no implementation of the step can do without, at the shapes of the step."""
    family, batch = session.student.family, session.batches.device_batch
    x = torch.randn(batch, *family.sample_shape(session.teacher))
    conditioning = family.condition(session.teacher, [index % 10 for index in range(batch)])
    family.call(session.model, x, torch.ones(batch), conditioning).square().mean().backward()
    session.optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        for sigma in (0.7, 0.3):
            family.call(session.teacher, x, torch.full((batch,), sigma), conditioning)


def with_kernels(setting: str, work: Callable[[], None]) -> None:
    os.environ["PIFLOW_KERNELS"] = setting
    try:
        work()
    finally:
        del os.environ["PIFLOW_KERNELS"]


def measure(rounds: int, batch: int) -> list[dict]:
    preset = resolve("digits", None, [], {"optimisation.batch_size": batch, "imitation.window": 0})
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(preset, Path(folder), "cpu", Console(quiet=True))
    works = {
        "networks alone": lambda: networks_alone(session),
        "iteration": lambda: with_kernels("on", lambda: train_step(session)),
        "iteration, reference rollout": lambda: with_kernels("off", lambda: train_step(session)),
    }
    times = medians(works, torch.device("cpu"), rounds, budget=300)
    return [
        {"work": name, "milliseconds": value, "ratio": value / times["networks alone"]} for name, value in times.items()
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the rows, versions and machine here")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--small", action="store_true", help="a batch of 8 and 2 rounds, to see that it runs")
    options = parser.parse_args(arguments)
    rows = measure(2, 8) if options.small else measure(options.rounds, 128)
    print(format_table(rows, ("work", "milliseconds", "ratio")))
    if options.json is not None:
        write_json(options.json, {**machine(torch.device("cpu")), "rows": rows})


if __name__ == "__main__":
    main()
