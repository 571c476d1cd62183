"""One training step and one sampling of presets on a GPU that is not there.

    python tests/fake_cuda/run.py PRESET ... [--small] [--set KEY=VALUE] [--json]

It ends with 1 where tensors lie on different devices, a kernel does not compile, or the host waits for the device more
often than is allowed, and names the places.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import no_gpu
from torch._subclasses.fake_tensor import FakeTensorMode


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("presets", nargs="+")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    options = parser.parse_args()
    if "libcuda.so.1" not in os.environ.get("LD_PRELOAD", ""):
        made = no_gpu.library(Path(tempfile.mkdtemp()))
        os.execve(sys.executable, [sys.executable, *sys.argv], no_gpu.environment(made))

    import diffusers.loaders.peft  # noqa: F401  before its imports would make fake tensors
    from kernels import Launches
    from sessions import noise_of, parameters_that_move, session_of
    from watching import Watch

    from piflow_cli.sampling.denoise import sample_student
    from piflow_cli.training.loop import train_step

    for name in options.presets:
        with (
            FakeTensorMode(allow_non_fake_inputs=True) as mode,
            parameters_that_move(),
            Watch(mode) as watch,
            Launches() as launches,
        ):
            began = time.perf_counter()
            session = session_of(
                name, options.settings, small=options.small, batch=options.batch, rounds=options.rounds
            )
            print(name, "opened", round(time.perf_counter() - began, 1))
            session.iteration, watch.host_is_real = 10**5, True
            start = noise_of(session)
            works = {
                "step": lambda: train_step(session),
                "sampling": lambda: sample_student(session.average, *start),
            }
            for title, work in works.items():
                watch.clear()
                launches.counts.clear()
                began = time.perf_counter()
                with session.accelerator.autocast():
                    work()
                print(
                    name,
                    title,
                    round(time.perf_counter() - began, 1),
                    "s",
                    sum(watch.waits.values()),
                    "waits",
                    sum(watch.copies.values()),
                    "copies",
                    dict(launches.counts),
                )
                for where, times in watch.waits.most_common():
                    print("   wait", times, where)
                for where, times in watch.copies.most_common():
                    print("   copy", times, where)
    return 0


if __name__ == "__main__":
    sys.exit(main())
